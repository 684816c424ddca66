//! Input into statements, as SQLite's own shell finds their ends (`sqlite3_complete`): semicolons inside quotes,
//! comments and the body of `CREATE TRIGGER` do not count.

/// Where in a token the input stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Lexer {
    #[default]
    Plain,
    /// After `-`, perhaps a comment.
    Dash,
    /// After `/`, perhaps a comment.
    Slash,
    /// Until this character.
    Quoted(char),
    LineComment,
    BlockComment,
    /// In a block comment after `*`.
    Star,
}

/// Where in a statement the input stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Start,
    /// After `EXPLAIN`, perhaps `QUERY PLAN`.
    Explain,
    /// After `CREATE`, perhaps `TEMP`.
    Create,
    /// In a statement that the next semicolon ends.
    Normal,
    /// In `CREATE TRIGGER`.
    Trigger,
    /// There, after a semicolon.
    TriggerSemicolon,
    /// There, after `; END`: the next semicolon ends it.
    TriggerEnd,
}

impl Phase {
    fn after_word(self, word: &str) -> Self {
        let is = |keyword: &str| word.eq_ignore_ascii_case(keyword);
        match self {
            Self::Start if is("EXPLAIN") => Self::Explain,
            Self::Start | Self::Explain if is("CREATE") => Self::Create,
            Self::Explain if is("QUERY") || is("PLAN") => Self::Explain,
            Self::Create if is("TEMP") || is("TEMPORARY") => Self::Create,
            Self::Create if is("TRIGGER") => Self::Trigger,
            Self::TriggerSemicolon if is("END") => Self::TriggerEnd,
            Self::Trigger | Self::TriggerSemicolon | Self::TriggerEnd => Self::Trigger,
            Self::Start | Self::Explain | Self::Create | Self::Normal => Self::Normal,
        }
    }

    fn after_semicolon(self) -> Self {
        match self {
            Self::Trigger | Self::TriggerSemicolon => Self::TriggerSemicolon,
            _ => Self::Start,
        }
    }
}

/// Takes input in any pieces and gives complete statements.
#[derive(Clone, Debug, Default)]
pub struct Splitter {
    pending: String,
    word: String,
    lexer: Lexer,
    phase: Phase,
}

impl Splitter {
    /// Takes more input; returns the statements that it completes, without their semicolons.
    pub fn push(&mut self, text: &str) -> Vec<String> {
        let mut complete = Vec::new();
        for c in text.chars() {
            self.lexer = self.step(c);
            if c == ';' && self.lexer == Lexer::Plain {
                let is_empty = self.phase == Phase::Start;
                self.phase = self.phase.after_semicolon();
                if self.phase == Phase::Start {
                    let statement = std::mem::take(&mut self.pending);
                    complete.extend((!is_empty).then(|| statement.trim().to_owned()));
                    continue;
                }
            }
            self.pending.push(c);
        }
        complete
    }

    /// Whether nothing has begun: no statement, quote or comment is open.
    pub fn is_blank(&self) -> bool {
        self.phase == Phase::Start && self.word.is_empty() && self.lexer == Lexer::Plain
    }

    /// The last statement, if the input ends without a semicolon.
    pub fn finish(mut self) -> Option<String> {
        self.end_word();
        let is_open =
            self.phase != Phase::Start || matches!(self.lexer, Lexer::Quoted(_) | Lexer::Dash | Lexer::Slash);
        is_open.then(|| self.pending.trim().to_owned())
    }

    /// Reads one character; words and other tokens move the phase on.
    fn step(&mut self, c: char) -> Lexer {
        match (self.lexer, c) {
            (Lexer::Quoted(end), c) if c == end => Lexer::Plain,
            (Lexer::Quoted(_), _) => self.lexer,
            (Lexer::LineComment, '\n') | (Lexer::Star, '/') => Lexer::Plain,
            (Lexer::LineComment, _) => Lexer::LineComment,
            (Lexer::BlockComment | Lexer::Star, '*') => Lexer::Star,
            (Lexer::BlockComment | Lexer::Star, _) => Lexer::BlockComment,
            (Lexer::Dash, '-') => Lexer::LineComment,
            (Lexer::Slash, '*') => Lexer::BlockComment,
            (Lexer::Dash | Lexer::Slash, _) => {
                self.other();
                self.plain(c)
            }
            (Lexer::Plain, _) => self.plain(c),
        }
    }

    fn plain(&mut self, c: char) -> Lexer {
        if c.is_alphanumeric() || matches!(c, '_' | '$') {
            self.word.push(c);
            return Lexer::Plain;
        }
        self.end_word();
        match c {
            '-' => return Lexer::Dash,
            '/' => return Lexer::Slash,
            ';' => {}
            '\'' | '"' | '`' => {
                self.other();
                return Lexer::Quoted(c);
            }
            '[' => {
                self.other();
                return Lexer::Quoted(']');
            }
            c if c.is_whitespace() => {}
            _ => self.other(),
        }
        Lexer::Plain
    }

    fn end_word(&mut self) {
        if !self.word.is_empty() {
            self.phase = self.phase.after_word(&self.word);
            self.word.clear();
        }
    }

    /// A token that is no word.
    fn other(&mut self) {
        self.phase = self.phase.after_word("");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRIGGER: &str =
        "CREATE TEMP TRIGGER t AFTER INSERT ON a BEGIN SELECT 1; UPDATE a SET x = 'END;'; END";

    #[test]
    fn statements_by_table() {
        let trigger = format!("{TRIGGER}; SELECT 2");
        let explained = format!("EXPLAIN QUERY PLAN {TRIGGER};");
        for (input, complete, rest) in [
            ("", vec![], None),
            (" ;; ; ", vec![], None),
            ("SELECT 1", vec![], Some("SELECT 1")),
            ("SELECT 1;", vec!["SELECT 1"], None),
            ("SELECT 1; SELECT 2;\n", vec!["SELECT 1", "SELECT 2"], None),
            ("SELECT ';'; SELECT 'it''s;';", vec!["SELECT ';'", "SELECT 'it''s;'"], None),
            (r#"SELECT ";", `;`, [;] ;"#, vec![r#"SELECT ";", `;`, [;]"#], None),
            ("SELECT 1 -- no; end\n;", vec!["SELECT 1 -- no; end"], None),
            ("SELECT /* ; ** ' */ 1;", vec!["SELECT /* ; ** ' */ 1"], None),
            ("-- only a comment;\n/* ; */", vec![], None),
            ("SELECT 1-1/2;x", vec!["SELECT 1-1/2"], Some("x")),
            ("SELECT 'open; ", vec![], Some("SELECT 'open;")),
            ("CREATE TABLE trigger_log(x); SELECT 1;", vec!["CREATE TABLE trigger_log(x)", "SELECT 1"], None),
            (&trigger, vec![TRIGGER], Some("SELECT 2")),
            (&explained, vec![explained.trim_end_matches(';')], None),
            ("SELECT 'ä;ö';", vec!["SELECT 'ä;ö'"], None),
        ] {
            let mut whole = Splitter::default();
            assert_eq!(whole.push(input), complete, "{input}");
            assert_eq!(whole.finish().as_deref(), rest, "{input}");
            let mut pieces = Splitter::default();
            let found: Vec<_> = input.chars().flat_map(|c| pieces.push(&c.to_string())).collect();
            assert_eq!(found, complete, "{input} in pieces");
        }
    }

    #[test]
    fn blank_is_where_nothing_is_open() {
        for (input, blank) in [
            ("", true),
            ("SELECT 1;\n", true),
            ("-- comment\n", true),
            ("-- comment", false),
            ("/* comment", false),
            ("SELECT", false),
            ("'", false),
        ] {
            let mut splitter = Splitter::default();
            splitter.push(input);
            assert_eq!(splitter.is_blank(), blank, "{input}");
        }
    }
}
