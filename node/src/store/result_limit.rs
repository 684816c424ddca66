//! How large the client of a query lets a result become.

use super::encode::{Abandoned, Sink, Stopped};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// How large the result of each statement may be; absent: as large as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResultLimit {
    /// Rows.
    pub rows: Option<u64>,
    /// Bytes of the rows, as they are written.
    pub bytes: Option<u64>,
}

/// Passes the result of a statement on up to its limit: whole rows, and then no more. Of a row that was sent on before its end
/// was written, because it is long, the beginning is not taken back.
pub struct Limited<'a> {
    to: &'a mut dyn Sink,
    limit: ResultLimit,
    rows: u64,
    bytes: u64,
    /// Up to where in the buffer bytes are counted.
    counted: usize,
    /// Where the present row begins, comma included, while all of it is in the buffer.
    begin: Option<usize>,
    exceeded: Option<String>,
}

impl<'a> Limited<'a> {
    /// For one statement, whose result goes `to` there.
    pub fn new(to: &'a mut dyn Sink, limit: ResultLimit) -> Self {
        Self { to, limit, rows: 0, bytes: 0, counted: 0, begin: None, exceeded: None }
    }

    /// What to tell the client, if there was more than it lets come.
    pub fn into_refusal(self) -> Option<String> {
        self.exceeded
    }

    /// Counts what was written since.
    fn count(&mut self) -> Result<(), Stopped> {
        let filled = self.to.buffer().len();
        self.bytes += (filled - self.counted) as u64;
        self.counted = filled;
        let Some(most) = self.limit.bytes.filter(|most| self.bytes > *most) else { return Ok(()) };
        self.exceeded = Some(format!("the rows of the result take more than {most} bytes (db_max_bytes)"));
        Err(Stopped)
    }
}

impl Sink for Limited<'_> {
    fn buffer(&mut self) -> &mut Vec<u8> {
        self.to.buffer()
    }

    fn row_begins(&mut self) -> Result<(), Stopped> {
        if let Some(most) = self.limit.rows.filter(|most| self.rows >= *most) {
            self.exceeded = Some(format!("the result has more than {most} rows (db_max_rows)"));
            return Err(Stopped);
        }
        self.rows += 1;
        let filled = self.to.buffer().len();
        (self.counted, self.begin) = (filled, Some(filled));
        self.to.row_begins()
    }

    fn part_written(&mut self) -> Result<(), Stopped> {
        self.count()?;
        let passed_on = self.to.part_written();
        let filled = self.to.buffer().len();
        if filled < self.counted {
            self.begin = None;
        }
        self.counted = filled;
        passed_on
    }

    fn take_row_back(&mut self) -> bool {
        // What stopped otherwise stays: the one below knows why.
        let Some(begin) = self.begin.filter(|_| self.exceeded.is_some()) else {
            return self.to.take_row_back();
        };
        self.to.buffer().truncate(begin);
        true
    }

    fn gives_way_on(&mut self, flag: Arc<AtomicBool>) {
        self.to.gives_way_on(flag);
    }

    fn time_written(&mut self, bytes: usize) {
        self.to.time_written(bytes);
    }

    fn abandoned(&self) -> Option<Abandoned> {
        self.to.abandoned()
    }

    fn limit(&self) -> ResultLimit {
        self.limit
    }
}
