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

/// Passes the result of a statement on up to its limit: whole rows, and then no more.
pub struct Limited<'a> {
    to: &'a mut dyn Sink,
    limit: ResultLimit,
    rows: u64,
    bytes: u64,
    /// Where the present row begins.
    begin: usize,
    exceeded: Option<String>,
}

impl<'a> Limited<'a> {
    /// For one statement, whose result goes `to` there.
    pub fn new(to: &'a mut dyn Sink, limit: ResultLimit) -> Self {
        Self { to, limit, rows: 0, bytes: 0, begin: 0, exceeded: None }
    }

    /// What to tell the client, if there was more than it lets come.
    pub fn into_refusal(self) -> Option<String> {
        self.exceeded
    }
}

impl Sink for Limited<'_> {
    fn buffer(&mut self) -> &mut Vec<u8> {
        self.to.buffer()
    }

    fn row_begins(&mut self) {
        self.begin = self.to.buffer().len();
    }

    fn row_written(&mut self) -> Result<(), Stopped> {
        self.rows += 1;
        self.bytes += (self.to.buffer().len() - self.begin) as u64;
        let ResultLimit { rows, bytes } = self.limit;
        self.exceeded = match (rows.filter(|most| self.rows > *most), bytes.filter(|most| self.bytes > *most))
        {
            (Some(most), _) => Some(format!("the result has more than {most} rows (db_max_rows)")),
            (_, Some(most)) => {
                Some(format!("the rows of the result take more than {most} bytes (db_max_bytes)"))
            }
            (None, None) => return self.to.row_written(),
        };
        self.to.buffer().truncate(self.begin);
        Err(Stopped)
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
