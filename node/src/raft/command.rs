//! What a log entry says: a group of client requests and the world they are executed in.
//!
//! # Format 1 (little endian)
//! ```text
//! command   = format u8 (1) · kind u8 (1 = execute) · database u32 (0) · context · count u32 · count × (length u32 · request)
//!           | format u8 (1) · kind u8 (2 = replace) · database u32 (0) · replacement · context · count u32 (1) · …
//!           | format u8 (1) · kind u8 (3 = changes) · database u32 (0) · changes · context · count u32 (0)
//!           | format u8 (1) · kind u8 (4 = maintenance) · database u32 (0) · maintenance · context · count u32 (0)
//!           | format u8 (1) · kind u8 (5 = extensions) · database u32 (0) · length u32 · set · context · count u32 (0)
//!           | format u8 (1) · kind u8 (6 = skip) · database u32 (0) · index u64 · context · count u32 (0)
//!           | format u8 (1) · kind u8 (7 = foreign keys) · database u32 (0) · enforced u8 (0, 1) · context · count u32 (0)
//! changes   = (0 = off) u8 | (1 = on) u8 · flags u8 (1 = row ids only, 2 = has a sink) · most bytes u64 · retained bytes u64
//!             · length u32 · table filter | (2 = delivered) u8 · entry u64
//! maintenance = (0 = the intervals begin) u8 · tasks u8 (1 = vacuum, 2 = optimize) | (1 = vacuum) u8
//!             | (2 = optimize) u8 · count u32 · count × (length u32 · table)
//! replacement = sha256 [32] · size u64 · epoch u64 (0 = as it is)
//! context   = timestamp i64 (µs since 1970) · seed u64 · step limit u64 (0 = none)
//! request   = id (node u64 · boot u64 · sequence u64) · flags u16 · count u32 · [key [32], if flags & 64] · count × statement
//! statement = length u32 (MAX = the text of the statement before) · text · parameters u16 · parameters × parameter
//! parameter = tag u8 · [name: length u16 · text, if tag & 0x80] · value
//! value     = (0) · (1) i64 · (2) f64 · (3) length u32 · UTF-8 · (4) length u32 · bytes
//! ```
//! The HTTP layer encodes a request once, straight from the JSON body; the same bytes then travel through proposal,
//! log, replication and apply, where they are read in place.

use crate::store::ExtensionSet;
use bytes::{BufMut, Bytes, BytesMut};

/// The only format this version writes. A leader proposes what the oldest member understands.
pub const FORMAT: u8 = 1;
/// Bytes of the largest request of a client, as it is in the log: a frame between members and a record of the log hold more.
pub const LARGEST_REQUEST: usize = 192 << 20;
const KIND_EXECUTE: u8 = 1;
const KIND_REPLACE: u8 = 2;
const KIND_CHANGES: u8 = 3;
const KIND_MAINTENANCE: u8 = 4;
const KIND_EXTENSIONS: u8 = 5;
const KIND_SKIP: u8 = 6;
const KIND_FOREIGN_KEYS: u8 = 7;
const SAME_SQL: u32 = u32::MAX;
const NAMED: u8 = 0x80;

/// Everything outside the database that executing an entry may depend on: replicas see the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryContext {
    /// The leader's clock when it proposed, in microseconds since 1970.
    pub timestamp_us: i64,
    /// Seed of `random()` and `randomblob()`.
    pub seed: u64,
    /// VM steps that the statements of one request may take together; 0 is without limit.
    pub step_limit: u64,
}

/// A database that takes the place of the present one. Its file is on a quorum of disks before an entry names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replacement {
    /// SHA-256 of the file.
    pub sha256: [u8; 32],
    /// Its size in bytes.
    pub size: u64,
    /// The cluster's epoch from then on; 0 leaves it as it is.
    pub epoch: u64,
}

/// How the changes of rows are captured: the same on every member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaptureSettings {
    /// Without the values.
    pub row_ids_only: bool,
    /// Whether the leader sends them on: what is dropped before that is lost.
    pub has_sink: bool,
    /// Regular expression of the names of tables; empty takes all.
    pub table_filter: String,
    /// Bytes of changes that are kept at most.
    pub max_bytes: u64,
    /// Bytes of changes that are kept though the sink has them.
    pub retain_bytes: u64,
}

/// What an entry says of the capture of changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangesCommand {
    /// It ends, and what was captured goes.
    Off,
    /// It begins, or goes on in another way.
    On(CaptureSettings),
    /// The sink has all changes up to an entry.
    Delivered {
        /// That entry.
        entry: u64,
    },
}

/// What an entry does for the database itself, at an interval.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MaintenanceCommand {
    /// Nothing but that the intervals of these begin.
    Begin {
        /// That of the first VACUUM.
        vacuum: bool,
        /// That of the first optimization.
        optimize: bool,
    },
    /// The database is written anew, without free space.
    Vacuum,
    /// Statistics of these tables are gathered for the planner.
    Optimize {
        /// They; one that is not there any more is left out.
        tables: Vec<String>,
    },
}

/// Names a request for good, so that a retry inside the cluster is never applied twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct RequestId {
    /// Raft id of the member that accepted the request.
    pub node: u64,
    /// How often that member had been started.
    pub boot: u64,
    /// Counts the requests of that run.
    pub sequence: u64,
}

/// How a request is to be run and answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestFlags(pub u16);

impl RequestFlags {
    /// All statements or none.
    pub const TRANSACTION: u16 = 1;
    /// Rows as objects.
    pub const ASSOCIATIVE: u16 = 1 << 1;
    /// BLOBs as arrays of integers.
    pub const BLOB_ARRAY: u16 = 1 << 2;
    /// Add the time each statement took.
    pub const TIMINGS: u16 = 1 << 3;
    /// `/db/request`: every statement that has columns answers with rows.
    pub const UNIFIED: u16 = 1 << 4;
    /// Column names as `table.column`.
    pub const QUALIFY_COLUMNS: u16 = 1 << 5;
    /// A key follows under which the answer is kept: the same request is not run again.
    pub const KEYED: u16 = 1 << 6;

    /// Whether `flag` is set.
    pub fn has(self, flag: u16) -> bool {
        self.0 & flag != 0
    }

    /// Sets `flag` if `on`.
    #[must_use]
    pub fn with(self, flag: u16, on: bool) -> Self {
        if on { Self(self.0 | flag) } else { self }
    }
}

/// What a client calls a request that it may send again: a hash of its name and of its user's.
pub type IdempotencyKey = [u8; 32];

/// A value bound to a parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Param<'a> {
    /// NULL.
    Null,
    /// INTEGER.
    Integer(i64),
    /// REAL.
    Real(f64),
    /// TEXT.
    Text(&'a str),
    /// BLOB.
    Blob(&'a [u8]),
}

/// The bytes of a command, a request, a statement are not what this format says.
///
/// They come from a checked log record or an authenticated peer, so this is a fault of a program, not of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed command at byte {0}: {1}")]
pub struct Malformed(usize, &'static str);

/// Writes one request.
pub struct RequestEncoder {
    buf: BytesMut,
    statements: u32,
    params_at: usize,
    params: u16,
    previous_sql: std::ops::Range<usize>,
}

const FLAGS_AT: usize = 24;
const COUNT_AT: usize = FLAGS_AT + 2;
const HEAD: usize = COUNT_AT + 4;

impl RequestEncoder {
    /// Begins a request; `size_hint` in bytes avoids growing the buffer.
    pub fn new(flags: RequestFlags, size_hint: usize) -> Self {
        let mut buf = BytesMut::with_capacity(HEAD + size_hint);
        buf.put_bytes(0, 24);
        // A key is given later, to the whole of it.
        buf.put_u16_le(flags.0 & !RequestFlags::KEYED);
        buf.put_u32_le(0);
        Self { buf, statements: 0, params_at: 0, params: 0, previous_sql: 0..0 }
    }

    /// Begins a statement.
    pub fn statement(&mut self, sql: &str) {
        self.end_statement();
        if self.statements > 0 && self.buf[self.previous_sql.clone()] == *sql.as_bytes() {
            self.buf.put_u32_le(SAME_SQL);
        } else {
            self.buf.put_u32_le(sql.len() as u32);
            let start = self.buf.len();
            self.buf.put_slice(sql.as_bytes());
            self.previous_sql = start..self.buf.len();
        }
        self.statements += 1;
        self.params_at = self.buf.len();
        self.params = 0;
        self.buf.put_u16_le(0);
    }

    /// Adds a parameter to the statement begun last; returns false if there are more than 65,535.
    #[must_use]
    pub fn param(&mut self, name: Option<&str>, value: Param<'_>) -> bool {
        let Some(count) = self.params.checked_add(1) else { return false };
        self.params = count;
        let tag = match value {
            Param::Null => 0,
            Param::Integer(_) => 1,
            Param::Real(_) => 2,
            Param::Text(_) => 3,
            Param::Blob(_) => 4,
        };
        match name {
            None => self.buf.put_u8(tag),
            Some(name) => {
                let Ok(length) = u16::try_from(name.len()) else { return false };
                self.buf.put_u8(tag | NAMED);
                self.buf.put_u16_le(length);
                self.buf.put_slice(name.as_bytes());
            }
        }
        match value {
            Param::Null => {}
            Param::Integer(i) => self.buf.put_i64_le(i),
            Param::Real(r) => self.buf.put_f64_le(r),
            Param::Text(t) => {
                self.buf.put_u32_le(t.len() as u32);
                self.buf.put_slice(t.as_bytes());
            }
            Param::Blob(b) => {
                self.buf.put_u32_le(b.len() as u32);
                self.buf.put_slice(b);
            }
        }
        true
    }

    /// How many statements it has so far.
    pub fn statements(&self) -> u32 {
        self.statements
    }

    /// Whether it is larger than a request may be, so far.
    pub fn is_too_large(&self) -> bool {
        self.buf.len() > LARGEST_REQUEST
    }

    fn end_statement(&mut self) {
        if self.statements > 0 {
            self.buf[self.params_at..self.params_at + 2].copy_from_slice(&self.params.to_le_bytes());
        }
    }

    /// The request under the name `id`.
    pub fn finish(mut self, id: RequestId) -> EncodedRequest {
        self.end_statement();
        for (at, word) in [(0, id.node), (8, id.boot), (16, id.sequence)] {
            self.buf[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        self.buf[COUNT_AT..COUNT_AT + 4].copy_from_slice(&self.statements.to_le_bytes());
        EncodedRequest(self.buf.freeze())
    }
}

/// A request as it goes into a log entry. Clones share the bytes.
#[derive(Clone, Debug)]
pub struct EncodedRequest(Bytes);

impl EncodedRequest {
    /// Takes the bytes of a peer, checked as far as reading them goes.
    pub fn from_peer(bytes: Bytes) -> Result<Self, Malformed> {
        RequestView::parse(&bytes)?.check()?;
        Ok(Self(bytes))
    }

    /// The same under a key. Its answer is kept by every member, so that it cannot say how long it took here.
    pub fn with_key(&self, key: &IdempotencyKey) -> Result<Self, Malformed> {
        let view = self.view()?;
        let flags = (view.flags.0 | RequestFlags::KEYED) & !RequestFlags::TIMINGS;
        let mut buf = BytesMut::with_capacity(self.0.len() + key.len());
        buf.put_slice(&self.0[..FLAGS_AT]);
        buf.put_u16_le(flags);
        buf.put_u32_le(view.count);
        buf.put_slice(key);
        buf.put_slice(view.body());
        Ok(Self(buf.freeze()))
    }

    /// One request of the statements of all `parts`, in order: a request's first statement never refers to one before.
    /// Keys of the parts are left out.
    pub fn merge(parts: &[Self], flags: RequestFlags, id: RequestId) -> Result<Self, Malformed> {
        let mut all = RequestEncoder::new(flags, parts.iter().map(|part| part.0.len()).sum());
        let mut count = 0;
        for part in parts {
            let part = part.view()?;
            count += part.count;
            all.buf.put_slice(part.body());
        }
        let mut bytes = BytesMut::from(all.finish(id).0);
        bytes[COUNT_AT..COUNT_AT + 4].copy_from_slice(&count.to_le_bytes());
        Ok(Self(bytes.freeze()))
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Its bytes, shared.
    pub fn into_bytes(self) -> Bytes {
        self.0
    }

    /// Its name.
    pub fn id(&self) -> Result<RequestId, Malformed> {
        Ok(self.view()?.id)
    }

    /// Whether it has to be the only request of its entry: a VACUUM, which runs outside a transaction.
    pub fn is_vacuum(&self) -> bool {
        // Malformed bytes are noticed where they are read.
        self.view().and_then(|view| view.is_vacuum()).unwrap_or(false)
    }

    /// Reads it.
    pub fn view(&self) -> Result<RequestView<'_>, Malformed> {
        RequestView::parse(&self.0)
    }
}

/// The bytes of a command that executes `requests` in `context`.
pub fn encode_execute<'a>(
    context: EntryContext,
    requests: impl ExactSizeIterator<Item = &'a [u8]> + Clone,
) -> Bytes {
    let size: usize = requests.clone().map(|r| r.len() + 4).sum();
    let mut buf = BytesMut::with_capacity(size + 34);
    buf.put_u8(FORMAT);
    buf.put_u8(KIND_EXECUTE);
    buf.put_u32_le(0);
    buf.put_i64_le(context.timestamp_us);
    buf.put_u64_le(context.seed);
    buf.put_u64_le(context.step_limit);
    buf.put_u32_le(requests.len() as u32);
    for request in requests {
        buf.put_u32_le(request.len() as u32);
        buf.put_slice(request);
    }
    buf.freeze()
}

/// The bytes of a command that puts another database in the place of the present one. `request` has no statements: it
/// only names who waits for it.
pub fn encode_replace(context: EntryContext, replacement: &Replacement, request: &EncodedRequest) -> Bytes {
    let execute = encode_execute(context, [request.bytes()].into_iter());
    let mut buf = BytesMut::with_capacity(execute.len() + 48);
    buf.put_slice(&execute[..6]);
    buf[1] = KIND_REPLACE;
    buf.put_slice(&replacement.sha256);
    buf.put_u64_le(replacement.size);
    buf.put_u64_le(replacement.epoch);
    buf.put_slice(&execute[6..]);
    buf.freeze()
}

/// The bytes of a command about the capture of changes.
pub fn encode_changes(context: EntryContext, command: &ChangesCommand) -> Bytes {
    encode_own(KIND_CHANGES, context, |buf| match command {
        ChangesCommand::Off => buf.put_u8(0),
        ChangesCommand::On(settings) => {
            buf.put_u8(1);
            buf.put_u8(u8::from(settings.row_ids_only) | u8::from(settings.has_sink) << 1);
            buf.put_u64_le(settings.max_bytes);
            buf.put_u64_le(settings.retain_bytes);
            buf.put_u32_le(settings.table_filter.len() as u32);
            buf.put_slice(settings.table_filter.as_bytes());
        }
        ChangesCommand::Delivered { entry } => {
            buf.put_u8(2);
            buf.put_u64_le(*entry);
        }
    })
}

/// The bytes of a command for the database itself.
pub fn encode_maintenance(context: EntryContext, command: &MaintenanceCommand) -> Bytes {
    encode_own(KIND_MAINTENANCE, context, |buf| match command {
        MaintenanceCommand::Begin { vacuum, optimize } => {
            buf.put_u8(0);
            buf.put_u8(u8::from(*vacuum) | u8::from(*optimize) << 1);
        }
        MaintenanceCommand::Vacuum => buf.put_u8(1),
        MaintenanceCommand::Optimize { tables } => {
            buf.put_u8(2);
            buf.put_u32_le(tables.len() as u32);
            for table in tables {
                buf.put_u32_le(table.len() as u32);
                buf.put_slice(table.as_bytes());
            }
        }
    })
}

/// The bytes of a command after which entries are executed by the extensions `set`.
pub fn encode_extensions(context: EntryContext, set: &ExtensionSet) -> Bytes {
    encode_own(KIND_EXTENSIONS, context, |buf| {
        let set = set.encode();
        buf.put_u32_le(set.len() as u32);
        buf.put_slice(&set);
    })
}

/// The bytes of a command that has members pass over entry `index`, which ends them.
pub fn encode_skip(context: EntryContext, index: u64) -> Bytes {
    encode_own(KIND_SKIP, context, |buf| buf.put_u64_le(index))
}

/// The bytes of a command after which entries are executed with foreign keys enforced, or without.
pub fn encode_foreign_keys(context: EntryContext, enforced: bool) -> Bytes {
    encode_own(KIND_FOREIGN_KEYS, context, |buf| buf.put_u8(enforced.into()))
}

/// The bytes of a command that has no requests: what it says comes before the context.
fn encode_own(kind: u8, context: EntryContext, put: impl FnOnce(&mut BytesMut)) -> Bytes {
    let execute = encode_execute(context, std::iter::empty());
    let mut buf = BytesMut::with_capacity(execute.len() + 64);
    buf.put_slice(&execute[..6]);
    buf[1] = kind;
    put(&mut buf);
    buf.put_slice(&execute[6..]);
    buf.freeze()
}

/// A command read in place.
#[derive(Clone, Debug)]
pub struct CommandView<'a> {
    /// The database that takes the place of the present one, if that is what the command is for.
    pub replacement: Option<Replacement>,
    /// What it says of the capture of changes, if that is what it is for.
    pub changes: Option<ChangesCommand>,
    /// What it does for the database itself, if that is what it is for.
    pub maintenance: Option<MaintenanceCommand>,
    /// By which extensions later entries are executed, if that is what it is for.
    pub extensions: Option<ExtensionSet>,
    /// Index of an entry before it that members pass over, if that is what it is for.
    pub skip: Option<u64>,
    /// Whether later entries are executed with foreign keys enforced, if that is what it is for.
    pub foreign_keys: Option<bool>,
    /// The world it is executed in.
    pub context: EntryContext,
    /// How many requests it holds.
    pub count: u32,
    rest: Reader<'a>,
}

impl<'a> CommandView<'a> {
    /// Reads the head of a command.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut r = Reader { bytes, at: 0 };
        if r.u8()? != FORMAT {
            return Err(Malformed(0, "a format of another version"));
        }
        let kind = r.u8()?;
        if !(KIND_EXECUTE..=KIND_FOREIGN_KEYS).contains(&kind) {
            return Err(Malformed(1, "unknown kind"));
        }
        if r.u32()? != 0 {
            return Err(Malformed(2, "unknown database"));
        }
        let replacement = if kind == KIND_REPLACE {
            Some(Replacement { sha256: r.array()?, size: r.u64()?, epoch: r.u64()? })
        } else {
            None
        };
        let changes = if kind == KIND_CHANGES { Some(r.changes()?) } else { None };
        let maintenance = if kind == KIND_MAINTENANCE { Some(r.maintenance()?) } else { None };
        let extensions = if kind == KIND_EXTENSIONS { Some(r.extensions()?) } else { None };
        let skip = if kind == KIND_SKIP { Some(r.u64()?) } else { None };
        let foreign_keys = if kind == KIND_FOREIGN_KEYS { Some(r.switch()?) } else { None };
        let context = EntryContext { timestamp_us: r.u64()? as i64, seed: r.u64()?, step_limit: r.u64()? };
        let count = r.u32()?;
        Ok(Self {
            replacement,
            changes,
            maintenance,
            extensions,
            skip,
            foreign_keys,
            context,
            count,
            rest: r,
        })
    }

    /// If all of it is one VACUUM: how that is to be answered.
    pub fn sole_vacuum(&self) -> Result<Option<RequestFlags>, Malformed> {
        if self.count != 1 {
            return Ok(None);
        }
        let Some(request) = self.requests().next().transpose()? else { return Ok(None) };
        Ok(request.is_vacuum()?.then_some(request.flags))
    }

    /// The requests, in order.
    pub fn requests(&self) -> impl Iterator<Item = Result<RequestView<'a>, Malformed>> + use<'a> {
        let mut r = self.rest.clone();
        (0..self.count).map(move |_| {
            let length = r.u32()? as usize;
            RequestView::parse(r.take(length)?)
        })
    }
}

/// A request read in place.
#[derive(Clone, Debug)]
pub struct RequestView<'a> {
    /// Its id.
    pub id: RequestId,
    /// How to run and answer it.
    pub flags: RequestFlags,
    /// How many statements it holds.
    pub count: u32,
    /// The key under which its answer is kept, if it has one.
    pub key: Option<IdempotencyKey>,
    rest: Reader<'a>,
}

impl<'a> RequestView<'a> {
    /// Reads the head of a request.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut r = Reader { bytes, at: 0 };
        let id = RequestId { node: r.u64()?, boot: r.u64()?, sequence: r.u64()? };
        let flags = RequestFlags(r.u16()?);
        let count = r.u32()?;
        let key = if flags.has(RequestFlags::KEYED) { Some(r.array()?) } else { None };
        Ok(Self { id, flags, count, key, rest: r })
    }

    /// The bytes of its statements.
    pub fn body(&self) -> &'a [u8] {
        &self.rest.bytes[self.rest.at..]
    }

    /// The statements, in order.
    pub fn statements(&self) -> Statements<'a> {
        Statements { rest: self.rest.clone(), left: self.count, previous: "" }
    }

    fn is_vacuum(&self) -> Result<bool, Malformed> {
        if self.count != 1 {
            return Ok(false);
        }
        Ok(self.statements().next()?.is_some_and(|statement| crate::store::is_vacuum(statement.sql)))
    }

    fn check(&self) -> Result<(), Malformed> {
        let mut statements = self.statements();
        while let Some(statement) = statements.next()? {
            statement.params().try_for_each(|p| p.map(drop))?;
        }
        Ok(())
    }
}

/// Walks the statements of a request.
#[derive(Clone, Debug)]
pub struct Statements<'a> {
    rest: Reader<'a>,
    left: u32,
    previous: &'a str,
}

impl<'a> Statements<'a> {
    /// The next statement, or none at the end.
    #[allow(
        clippy::should_implement_trait,
        reason = "fallible, and its items borrow the request, not the walk"
    )]
    pub fn next(&mut self) -> Result<Option<StatementView<'a>>, Malformed> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        let r = &mut self.rest;
        match r.u32()? {
            SAME_SQL => {}
            length => self.previous = r.text(length as usize)?,
        }
        let count = r.u16()?;
        let params = r.clone();
        for _ in 0..count {
            r.param()?;
        }
        Ok(Some(StatementView { sql: self.previous, count, params }))
    }
}

/// A statement read in place.
#[derive(Clone, Debug)]
pub struct StatementView<'a> {
    /// Its text; may hold several SQL statements.
    pub sql: &'a str,
    /// How many parameters it has.
    pub count: u16,
    params: Reader<'a>,
}

impl<'a> StatementView<'a> {
    /// Its parameters, in order, with the names of those that have one.
    pub fn params(&self) -> impl Iterator<Item = Result<(Option<&'a str>, Param<'a>), Malformed>> + use<'a> {
        let mut r = self.params.clone();
        (0..self.count).map(move |_| r.param())
    }
}

#[derive(Clone, Debug)]
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], Malformed> {
        let end = self
            .at
            .checked_add(n)
            .filter(|&end| end <= self.bytes.len())
            .ok_or(Malformed(self.at, "cut short"))?;
        let part = &self.bytes[self.at..end];
        self.at = end;
        Ok(part)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let at = self.at;
        self.take(N)?.try_into().map_err(|_| Malformed(at, "cut short"))
    }

    fn extensions(&mut self) -> Result<ExtensionSet, Malformed> {
        let at = self.at;
        let length = self.u32()? as usize;
        ExtensionSet::decode(self.take(length)?).map_err(|_| Malformed(at, "not a set of extensions"))
    }

    fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.array::<1>()?[0])
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn text(&mut self, length: usize) -> Result<&'a str, Malformed> {
        let at = self.at;
        std::str::from_utf8(self.take(length)?).map_err(|_| Malformed(at, "not UTF-8"))
    }

    fn changes(&mut self) -> Result<ChangesCommand, Malformed> {
        let at = self.at;
        Ok(match self.u8()? {
            0 => ChangesCommand::Off,
            1 => {
                let flags = self.u8()?;
                let (max_bytes, retain_bytes) = (self.u64()?, self.u64()?);
                let length = self.u32()?;
                ChangesCommand::On(CaptureSettings {
                    row_ids_only: flags & 1 != 0,
                    has_sink: flags & 2 != 0,
                    table_filter: self.text(length as usize)?.to_owned(),
                    max_bytes,
                    retain_bytes,
                })
            }
            2 => ChangesCommand::Delivered { entry: self.u64()? },
            _ => return Err(Malformed(at, "unknown kind of changes")),
        })
    }

    fn maintenance(&mut self) -> Result<MaintenanceCommand, Malformed> {
        let at = self.at;
        Ok(match self.u8()? {
            0 => {
                let tasks = self.u8()?;
                MaintenanceCommand::Begin { vacuum: tasks & 1 != 0, optimize: tasks & 2 != 0 }
            }
            1 => MaintenanceCommand::Vacuum,
            2 => {
                let mut tables = Vec::new();
                for _ in 0..self.u32()? {
                    let length = self.u32()?;
                    tables.push(self.text(length as usize)?.to_owned());
                }
                MaintenanceCommand::Optimize { tables }
            }
            _ => return Err(Malformed(at, "unknown kind of maintenance")),
        })
    }

    fn switch(&mut self) -> Result<bool, Malformed> {
        let at = self.at;
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed(at, "neither off nor on")),
        }
    }

    fn param(&mut self) -> Result<(Option<&'a str>, Param<'a>), Malformed> {
        let at = self.at;
        let tag = self.u8()?;
        let name = if tag & NAMED != 0 {
            let length = self.u16()?;
            Some(self.text(length.into())?)
        } else {
            None
        };
        let value = match tag & !NAMED {
            0 => Param::Null,
            1 => Param::Integer(self.u64()? as i64),
            2 => Param::Real(f64::from_bits(self.u64()?)),
            3 => {
                let length = self.u32()?;
                Param::Text(self.text(length as usize)?)
            }
            4 => {
                let length = self.u32()?;
                Param::Blob(self.take(length as usize)?)
            }
            _ => return Err(Malformed(at, "unknown value")),
        };
        Ok((name, value))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_command_about_changes_reads_back_as_written() {
        let context = EntryContext { timestamp_us: 5, seed: 6, step_limit: 0 };
        let settings = CaptureSettings {
            row_ids_only: true,
            has_sink: false,
            table_filter: "^t".into(),
            max_bytes: 7,
            retain_bytes: 1 << 40,
        };
        for command in
            [ChangesCommand::Off, ChangesCommand::On(settings), ChangesCommand::Delivered { entry: 9 }]
        {
            let bytes = encode_changes(context, &command);
            let view = CommandView::parse(&bytes).unwrap();
            assert_eq!((view.context, view.count, view.changes.as_ref()), (context, 0, Some(&command)));
            assert!(CommandView::parse(&bytes[..bytes.len() - 1]).is_err());
        }
    }

    #[test]
    fn a_command_to_pass_over_an_entry_reads_back_as_written() {
        let context = EntryContext { timestamp_us: 5, seed: 6, step_limit: 0 };
        let bytes = encode_skip(context, u64::MAX - 1);
        let view = CommandView::parse(&bytes).unwrap();
        assert_eq!((view.context, view.count, view.skip), (context, 0, Some(u64::MAX - 1)));
        assert!(CommandView::parse(&bytes[..bytes.len() - 1]).is_err());
    }

    #[test]
    fn a_command_about_foreign_keys_reads_back_as_written() {
        let context = EntryContext { timestamp_us: 5, seed: 6, step_limit: 0 };
        for enforced in [false, true] {
            let bytes = encode_foreign_keys(context, enforced);
            let view = CommandView::parse(&bytes).unwrap();
            assert_eq!((view.context, view.count, view.foreign_keys), (context, 0, Some(enforced)));
            assert!(CommandView::parse(&bytes[..bytes.len() - 1]).is_err());
            let mut neither = bytes.to_vec();
            neither[6] = 2;
            assert!(CommandView::parse(&neither).is_err());
        }
    }

    #[test]
    fn a_command_for_the_database_itself_reads_back_as_written() {
        let context = EntryContext { timestamp_us: 5, seed: 6, step_limit: 0 };
        for command in [
            MaintenanceCommand::Begin { vacuum: true, optimize: false },
            MaintenanceCommand::Begin { vacuum: false, optimize: true },
            MaintenanceCommand::Vacuum,
            MaintenanceCommand::Optimize { tables: Vec::new() },
            MaintenanceCommand::Optimize { tables: vec!["t".into(), "a \"b\"".into()] },
        ] {
            let bytes = encode_maintenance(context, &command);
            let view = CommandView::parse(&bytes).unwrap();
            assert_eq!((view.context, view.count, view.maintenance.as_ref()), (context, 0, Some(&command)));
            assert!(CommandView::parse(&bytes[..bytes.len() - 1]).is_err());
        }
    }

    #[test]
    fn a_request_reads_back_as_written() {
        let mut e = RequestEncoder::new(RequestFlags::default().with(RequestFlags::TRANSACTION, true), 0);
        e.statement("INSERT INTO t VALUES(?, :b)");
        assert!(e.param(None, Param::Integer(-1)));
        assert!(e.param(Some("b"), Param::Text("x")));
        e.statement("INSERT INTO t VALUES(?, :b)");
        assert!(e.param(None, Param::Real(0.5)));
        assert!(e.param(None, Param::Blob(&[0, 255])));
        e.statement("");
        let id = RequestId { node: 7, boot: 1, sequence: 9 };
        let request = e.finish(id);
        let context = EntryContext { timestamp_us: 5, seed: 6, step_limit: 7 };
        let command = encode_execute(context, [request.bytes()].into_iter());

        let view = CommandView::parse(&command).unwrap();
        assert_eq!(view.context, context);
        let request = view.requests().next().unwrap().unwrap();
        assert_eq!((request.id, request.count), (id, 3));
        assert!(request.flags.has(RequestFlags::TRANSACTION));
        let mut statements = request.statements();
        let first = statements.next().unwrap().unwrap();
        assert_eq!(
            first.params().collect::<Result<Vec<_>, _>>().unwrap(),
            [(None, Param::Integer(-1)), (Some("b"), Param::Text("x"))]
        );
        let second = statements.next().unwrap().unwrap();
        assert_eq!(second.sql, first.sql);
        assert_eq!(
            second.params().collect::<Result<Vec<_>, _>>().unwrap(),
            [(None, Param::Real(0.5)), (None, Param::Blob(&[0, 255]))]
        );
        assert_eq!(statements.next().unwrap().unwrap().sql, "");
        assert!(statements.next().unwrap().is_none());
    }

    #[test]
    fn a_replacement_reads_back_and_a_cut_is_noticed() {
        let id = RequestId { node: 7, boot: 1, sequence: 9 };
        let request = RequestEncoder::new(RequestFlags::default(), 0).finish(id);
        let context = EntryContext { timestamp_us: 5, seed: 6, step_limit: 7 };
        let replacement = Replacement { sha256: [3; 32], size: 4096, epoch: 2 };
        let command = encode_replace(context, &replacement, &request);
        let view = CommandView::parse(&command).unwrap();
        assert_eq!((view.replacement, view.context), (Some(replacement), context));
        assert_eq!(view.requests().next().unwrap().unwrap().id, id);
        let plain = encode_execute(context, [request.bytes()].into_iter());
        assert_eq!(CommandView::parse(&plain).unwrap().replacement, None);
        for end in 0..command.len() {
            let cut = CommandView::parse(&command[..end]);
            assert!(cut.is_err() || cut.unwrap().requests().any(|r| r.is_err()), "{end}");
        }
    }

    #[test]
    fn a_key_reads_back_and_costs_the_time_it_took() {
        let mut e = RequestEncoder::new(RequestFlags(RequestFlags::TIMINGS | RequestFlags::TRANSACTION), 0);
        e.statement("INSERT INTO t VALUES(?)");
        assert!(e.param(None, Param::Integer(-1)));
        let plain = e.finish(RequestId { node: 7, boot: 1, sequence: 9 });
        let keyed = plain.with_key(&[5; 32]).unwrap();
        let (plain, view) = (plain.view().unwrap(), keyed.view().unwrap());
        assert_eq!((view.id, view.count, view.key, view.body()), (plain.id, 1, Some([5; 32]), plain.body()));
        assert_eq!(view.flags, RequestFlags(RequestFlags::KEYED | RequestFlags::TRANSACTION));
        assert_eq!(view.statements().next().unwrap().unwrap().sql, "INSERT INTO t VALUES(?)");
        let merged =
            EncodedRequest::merge(std::slice::from_ref(&keyed), RequestFlags(0), RequestId::default())
                .unwrap();
        assert_eq!((merged.view().unwrap().key, merged.view().unwrap().body()), (None, plain.body()));
        assert!(EncodedRequest::from_peer(keyed.into_bytes().slice(..HEAD + 31)).is_err());
    }

    #[test]
    fn merged_requests_keep_their_order() {
        let one = |sql: &[&str]| {
            let mut e = RequestEncoder::new(RequestFlags::default(), 0);
            sql.iter().for_each(|sql| e.statement(sql));
            e.finish(RequestId::default())
        };
        let id = RequestId { node: 1, boot: 2, sequence: 3 };
        let merged =
            EncodedRequest::merge(&[one(&["a", "a"]), one(&["a"]), one(&["b"])], RequestFlags(1), id);
        let merged = merged.unwrap();
        let view = merged.view().unwrap();
        assert_eq!((view.id, view.flags, view.count), (id, RequestFlags(1), 4));
        let mut statements = view.statements();
        let mut all = String::new();
        while let Some(statement) = statements.next().unwrap() {
            all.push_str(statement.sql);
        }
        assert_eq!(all, "aaab");
    }

    #[test]
    fn every_cut_is_noticed() {
        let mut e = RequestEncoder::new(RequestFlags::default(), 0);
        e.statement("SELECT ?");
        assert!(e.param(Some("n"), Param::Text("text")));
        let bytes = e.finish(RequestId::default()).into_bytes();
        for end in 0..bytes.len() {
            assert!(EncodedRequest::from_peer(bytes.slice(..end)).is_err(), "{end}");
        }
        assert!(EncodedRequest::from_peer(bytes).is_ok());
    }
}
