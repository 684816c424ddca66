//! SQL functions that give the same answer on every replica.
//!
//! * `random()` and `randomblob(n)` draw from a generator that is seeded for each statement from the entry's seed, the
//!   request's and the statement's number, so that leaving out a failed statement shifts nothing. Only on the writer.
//! * The mathematical functions come from the crate `libm`, whose results do not depend on the machine's C library.
//!   On the writer and on readers, so that a query agrees with an index on an expression.

use rusqlite::functions::{Context, FunctionFlags};
use rusqlite::{Connection, Error, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// SplitMix64 (Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators", 2014).
fn mix(state: u64) -> u64 {
    let mut z = state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// The generator behind `random()` on the writer.
#[derive(Clone, Debug, Default)]
pub struct EntryRandom {
    state: Arc<AtomicU64>,
}

impl EntryRandom {
    /// Starts the sequence of one statement.
    pub fn seed(&self, entry_seed: u64, request: u32, statement: u32) {
        let position = (u64::from(request) << 32) | u64::from(statement);
        self.state.store(mix(entry_seed ^ mix(position.wrapping_add(GAMMA))), Ordering::Relaxed);
    }

    fn next(&self) -> u64 {
        // One thread draws; the atomic only makes the closure Send.
        let state = self.state.load(Ordering::Relaxed).wrapping_add(GAMMA);
        self.state.store(state, Ordering::Relaxed);
        mix(state)
    }

    /// Replaces `random()` and `randomblob(n)` on `connection`.
    pub fn install(&self, connection: &Connection) -> Result<()> {
        let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_INNOCUOUS;
        let random = self.clone();
        connection.create_scalar_function("random", 0, flags, move |_| Ok(random.next() as i64))?;
        let random = self.clone();
        connection.create_scalar_function("randomblob", 1, flags, move |context| {
            // As SQLite's own: less than one byte means one.
            let length = context.get::<Option<f64>>(0).unwrap_or(None).unwrap_or(0.0).max(1.0);
            if length > f64::from(256 << 20) {
                return Err(Error::UserFunctionError("string or blob too big".into()));
            }
            let mut bytes = vec![0; length as usize];
            for chunk in bytes.chunks_mut(8) {
                chunk.copy_from_slice(&random.next().to_le_bytes()[..chunk.len()]);
            }
            Ok(bytes)
        })
    }
}

type Unary = fn(f64) -> f64;
type Binary = fn(f64, f64) -> f64;

/// Replaces the mathematical functions on `connection`.
pub fn install_math(connection: &Connection) -> Result<()> {
    let one: &[(&str, Unary)] = &[
        ("acos", libm::acos),
        ("acosh", libm::acosh),
        ("asin", libm::asin),
        ("asinh", libm::asinh),
        ("atan", libm::atan),
        ("atanh", libm::atanh),
        ("cos", libm::cos),
        ("cosh", libm::cosh),
        ("degrees", |x| x * (180.0 / std::f64::consts::PI)),
        ("exp", libm::exp),
        ("radians", |x| x * (std::f64::consts::PI / 180.0)),
        ("sin", libm::sin),
        ("sinh", libm::sinh),
        ("sqrt", libm::sqrt),
        ("tan", libm::tan),
        ("tanh", libm::tanh),
    ];
    for &(name, f) in one {
        scalar(connection, name, 1, move |context| Ok(number(context, 0)?.map(f)))?;
    }
    let two: &[(&str, Binary)] =
        &[("atan2", libm::atan2), ("mod", libm::fmod), ("pow", libm::pow), ("power", libm::pow)];
    for &(name, f) in two {
        scalar(connection, name, 2, move |context| {
            Ok(number(context, 0)?.zip(number(context, 1)?).map(|(x, y)| f(x, y)))
        })?;
    }
    let log: &[(&str, Unary)] =
        &[("ln", libm::log), ("log", libm::log10), ("log10", libm::log10), ("log2", libm::log2)];
    for &(name, f) in log {
        scalar(connection, name, 1, move |context| Ok(number(context, 0)?.filter(|x| *x > 0.0).map(f)))?;
    }
    scalar(connection, "log", 2, |context| {
        let (Some(base), Some(x)) = (number(context, 0)?, number(context, 1)?) else { return Ok(None) };
        if base <= 0.0 || x <= 0.0 {
            return Ok(None);
        }
        let divisor = libm::log(base);
        Ok((divisor != 0.0).then(|| libm::log(x) / divisor))
    })
}

fn scalar<F>(connection: &Connection, name: &str, arguments: i32, f: F) -> Result<()>
where
    F: Fn(&Context<'_>) -> Result<Option<f64>> + Send + 'static,
{
    let flags =
        FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC | FunctionFlags::SQLITE_INNOCUOUS;
    // SQLite turns NaN into NULL by itself.
    connection.create_scalar_function(name, arguments, flags, move |context| f(context))
}

/// A numeric argument; text that is a number counts as one, anything else is NULL, as in SQLite's own functions.
fn number(context: &Context<'_>, i: usize) -> Result<Option<f64>> {
    use rusqlite::types::ValueRef;
    Ok(match context.get_raw(i) {
        ValueRef::Integer(n) => Some(n as f64),
        ValueRef::Real(r) => Some(r),
        ValueRef::Text(t) => std::str::from_utf8(t).ok().and_then(|t| t.trim().parse().ok()),
        ValueRef::Null | ValueRef::Blob(_) => None,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_numbers() {
        let draw = |seed, statement| {
            let c = Connection::open_in_memory().unwrap();
            let random = EntryRandom::default();
            random.install(&c).unwrap();
            random.seed(seed, 0, statement);
            let sql = "SELECT random(), hex(randomblob(9)), length(randomblob(-1)), length(randomblob(NULL))";
            c.query_row(sql, [], |r| {
                Ok((r.get::<_, i64>(0)?, r.get::<_, String>(1)?, r.get::<_, i64>(2)?, r.get::<_, i64>(3)?))
            })
            .unwrap()
        };
        assert_eq!(draw(1, 1), draw(1, 1));
        assert_ne!(draw(1, 1).0, draw(1, 2).0);
        assert_ne!(draw(1, 1).0, draw(2, 1).0);
        assert_eq!((draw(1, 1).2, draw(1, 1).3), (1, 1));
    }

    #[test]
    fn mathematics_as_sqlite_has_it() {
        let c = Connection::open_in_memory().unwrap();
        install_math(&c).unwrap();
        let cases: &[(&str, Option<f64>)] = &[
            ("sqrt(2.25)", Some(1.5)),
            ("sqrt('2.25')", Some(1.5)),
            ("sqrt(-1)", None),
            ("sqrt('x')", None),
            ("pow(2, 10)", Some(1024.0)),
            ("log(100)", Some(2.0)),
            ("log(2, 8)", Some(3.0)),
            ("log(1, 8)", None),
            ("ln(0)", None),
            ("mod(11, 3.5)", Some(0.5)),
            ("exp(NULL)", None),
        ];
        for (sql, expected) in cases {
            assert_eq!(
                c.query_row(&format!("SELECT {sql}"), [], |r| r.get::<_, Option<f64>>(0)).unwrap(),
                *expected,
                "{sql}"
            );
        }
    }
}
