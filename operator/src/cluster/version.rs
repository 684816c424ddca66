//! Versions of members, in the order in which they follow one another.

/// A version, as semver.org has it; what comes after a `+` does not count.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// Major version.
    pub major: u64,
    /// Minor version.
    pub minor: u64,
    /// Patch.
    pub patch: u64,
    stage: Stage,
}

/// Before a release, or the release.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Before(Vec<Word>),
    Release,
}

/// A part of the name of a stage before a release.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Word {
    Number(u64),
    Text(String),
}

impl Version {
    /// What the text says, if it is a version; a `v` before it is left out.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.strip_prefix('v').unwrap_or(text);
        let text = text.split_once('+').map_or(text, |(text, _)| text);
        let (numbers, before) =
            text.split_once('-').map_or((text, None), |(numbers, before)| (numbers, Some(before)));
        let mut numbers = numbers.split('.').map(|number| number.parse().ok());
        let mut next = || numbers.next().flatten();
        let (major, minor, patch) = (next()?, next()?, next()?);
        let word = |text: &str| match text.parse() {
            Ok(number) => Word::Number(number),
            Err(_) => Word::Text(text.to_owned()),
        };
        let stage =
            before.map_or(Stage::Release, |before| Stage::Before(before.split('.').map(word).collect()));
        Some(Self { major, minor, patch, stage })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_older_than_the_next() {
        let order = [
            "0.9.0",
            "0.9.9",
            "0.9.10",
            "v0.10.0",
            "1.0.0-2",
            "1.0.0-10",
            "1.0.0-rc",
            "1.0.0-rc.1",
            "1.0.0-rc.1.1",
            "1.0.0-rc.2",
            "1.0.0",
            "1.0.1",
            "2.0.0",
            "10.0.0",
        ];
        for pair in order.windows(2) {
            let [older, newer] = [pair[0], pair[1]].map(|text| Version::parse(text).unwrap());
            assert!(older < newer, "{pair:?}");
        }
        assert_eq!(Version::parse("1.2.3+a"), Version::parse("v1.2.3+b"));
        for text in ["", "latest", "1", "1.2", "1.2.x", "v-1.2.3"] {
            assert_eq!(Version::parse(text), None, "{text}");
        }
    }
}
