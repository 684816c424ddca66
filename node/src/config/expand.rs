//! Variables of the environment in files of rqlite's formats: `$NAME` and `${NAME}`, by Go's rules.

/// Puts what `variable` says in the place of each name; nothing in the place of one that is not set. A `$` that no name
/// follows stays.
pub fn expand(text: &str, variable: impl Fn(&str) -> Option<String>) -> String {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        expanded.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let in_braces = after.strip_prefix('{').and_then(|inside| inside.split_once('}'));
        let (name, left) = in_braces.unwrap_or_else(|| {
            let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len());
            after.split_at(end)
        });
        if name.is_empty() && in_braces.is_none() {
            expanded.push('$');
        } else {
            expanded.push_str(&variable(name).unwrap_or_default());
        }
        rest = left;
    }
    expanded.push_str(rest);
    expanded
}

/// The same, with what the environment of this process says.
pub fn expand_environment(text: &str) -> String {
    expand(text, |name| std::env::var(name).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_by_table() {
        let variable = |name: &str| match name {
            "A" => Some("x".to_owned()),
            "LONG_1" => Some("y$A".to_owned()),
            _ => None,
        };
        for (text, expected) in [
            ("", ""),
            ("none", "none"),
            ("$A", "x"),
            ("a$A.b", "ax.b"),
            ("${A}b", "xb"),
            ("$LONG_1/", "y$A/"),
            ("$Ab", ""),
            ("<$MISSING>", "<>"),
            ("<${MISSING}>", "<>"),
            ("5 $ and $", "5 $ and $"),
            ("${A", "${A"),
            ("é$A", "éx"),
        ] {
            assert_eq!(expand(text, variable), expected, "{text}");
        }
    }
}
