//! A statement as requests carry it.

use serde::ser::SerializeSeq;
use serde::{Serialize, Serializer};
use serde_json::Value;

/// SQL text, and values for its positional parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct Statement {
    sql: String,
    parameters: Vec<Value>,
}

impl Statement {
    /// A statement without parameters.
    pub fn new(sql: impl Into<String>) -> Self {
        Self { sql: sql.into(), parameters: Vec::new() }
    }

    /// The same with one more parameter: null, a bool, a number, a string, or an array of bytes for a BLOB.
    #[must_use]
    pub fn bind(mut self, value: impl Into<Value>) -> Self {
        self.parameters.push(value.into());
        self
    }
}

impl<S: Into<String>> From<S> for Statement {
    fn from(sql: S) -> Self {
        Self::new(sql)
    }
}

impl Serialize for Statement {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.parameters.is_empty() {
            return serializer.serialize_str(&self.sql);
        }
        let mut array = serializer.serialize_seq(Some(1 + self.parameters.len()))?;
        array.serialize_element(&self.sql)?;
        for value in &self.parameters {
            array.serialize_element(value)?;
        }
        array.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_statement_is_a_string_or_an_array() {
        for (statement, expected) in [
            (Statement::new("SELECT 1"), json!("SELECT 1")),
            (Statement::new("SELECT ?, ?").bind(1).bind("x"), json!(["SELECT ?, ?", 1, "x"])),
            (Statement::new("SELECT ?").bind(Value::Null), json!(["SELECT ?", null])),
        ] {
            assert_eq!(serde_json::to_value(statement).expect("JSON"), expected);
        }
    }
}
