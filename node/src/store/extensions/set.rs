//! Which extensions a cluster has: the names and contents of their files, and what writes may use of them.
//!
//! ```text
//! set = files u8 · files × (length u8 · name · sha256 [32]) · modules u8 · modules × (length u8 · name)
//! ```
//! Nothing stands for the empty set.

use super::super::staging::Sha256Sum;
use super::ExtensionError;
use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

/// Files of a set at most: all of it has to fit into the internal table.
const MOST_FILES: usize = 30;
/// Modules that writes may use, at most.
const MOST_MODULES: usize = 16;
/// Of a name, in bytes.
const LONGEST_NAME: usize = 64;

/// A file of a set. Its name says what its entry point is called, so it counts beside the content.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ExtensionFile {
    /// Its name, without directories.
    pub name: String,
    /// What is in it.
    pub sha256: Sha256Sum,
}

impl ExtensionFile {
    /// Whether a file may be called so.
    pub fn is_name(name: &str) -> bool {
        let first = name.bytes().next();
        name.len() <= LONGEST_NAME
            && first.is_some_and(|first| first.is_ascii_alphanumeric() || first == b'_')
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-+".contains(&byte))
    }
}

impl fmt::Display for ExtensionFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sum = self.sha256.to_string();
        write!(f, "{} (sha256 {}…)", self.name, &sum[..12])
    }
}

/// Extensions that a cluster has. Two members with equal sets execute an entry alike.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ExtensionSet {
    files: Vec<ExtensionFile>,
    modules: BTreeSet<String>,
}

/// The bytes are not a set's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed set of extensions")]
pub struct MalformedSet;

impl ExtensionSet {
    /// Of `files`, which may hold one several times. Writes may use the virtual tables of `modules`.
    pub fn new(
        files: impl IntoIterator<Item = ExtensionFile>,
        modules: impl IntoIterator<Item = String>,
    ) -> Result<Self, ExtensionError> {
        let refused = |name: &str, what: String| Err(ExtensionError::refused(Path::new(name), what));
        let files: Vec<ExtensionFile> = files.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
        if let Some(same) = files.windows(2).find(|pair| pair[0].name == pair[1].name) {
            return refused(&same[0].name, "two files with different contents have this name".into());
        }
        if files.len() > MOST_FILES {
            return refused(&files[MOST_FILES].name, format!("more than {MOST_FILES} extensions"));
        }
        let modules: BTreeSet<String> = modules.into_iter().map(|name| name.to_ascii_lowercase()).collect();
        if let Some(odd) = modules.iter().find(|name| name.is_empty() || name.len() > LONGEST_NAME) {
            return refused(odd, "not the name of a module".into());
        }
        if modules.len() > MOST_MODULES {
            return refused("-extensions-modules", format!("more than {MOST_MODULES} modules"));
        }
        Ok(Self { files, modules })
    }

    /// Its files, by name.
    pub fn files(&self) -> &[ExtensionFile] {
        &self.files
    }

    /// Modules whose virtual tables writes may use, in lower case.
    pub fn modules(&self) -> &BTreeSet<String> {
        &self.modules
    }

    /// Whether it has no file and no module.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty() && self.modules.is_empty()
    }

    /// Its bytes; none of the empty set.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        if self.is_empty() {
            return out;
        }
        let put = |out: &mut Vec<u8>, name: &str| {
            out.push(name.len() as u8);
            out.extend_from_slice(name.as_bytes());
        };
        out.push(self.files.len() as u8);
        for file in &self.files {
            put(&mut out, &file.name);
            out.extend_from_slice(&file.sha256.0);
        }
        out.push(self.modules.len() as u8);
        self.modules.iter().for_each(|name| put(&mut out, name));
        out
    }

    /// Reads what [`ExtensionSet::encode`] writes, and nothing else.
    pub fn decode(bytes: &[u8]) -> Result<Self, MalformedSet> {
        if bytes.is_empty() {
            return Ok(Self::default());
        }
        let mut rest = bytes;
        let mut take = |n: usize| -> Result<&[u8], MalformedSet> {
            let (part, after) = rest.split_at_checked(n).ok_or(MalformedSet)?;
            rest = after;
            Ok(part)
        };
        let mut files = Vec::new();
        for _ in 0..take(1)?[0] {
            let length = take(1)?[0].into();
            let name = text(take(length)?)?;
            if !ExtensionFile::is_name(&name) {
                return Err(MalformedSet);
            }
            let sha256 = Sha256Sum(take(32)?.try_into().map_err(|_| MalformedSet)?);
            files.push(ExtensionFile { name, sha256 });
        }
        let mut modules = Vec::new();
        for _ in 0..take(1)?[0] {
            let length = take(1)?[0].into();
            modules.push(text(take(length)?)?);
        }
        let set = Self::new(files, modules).map_err(|_| MalformedSet)?;
        if set.encode() == bytes { Ok(set) } else { Err(MalformedSet) }
    }
}

fn text(bytes: &[u8]) -> Result<String, MalformedSet> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| MalformedSet)
}

impl fmt::Display for ExtensionSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("none");
        }
        let files: Vec<String> = self.files.iter().map(ToString::to_string).collect();
        f.write_str(&files.join(", "))?;
        if !self.modules.is_empty() {
            let modules: Vec<&str> = self.modules.iter().map(String::as_str).collect();
            write!(f, " with modules {} for writes", modules.join(", "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn file(name: &str, byte: u8) -> ExtensionFile {
        ExtensionFile { name: name.into(), sha256: Sha256Sum([byte; 32]) }
    }

    #[test]
    fn a_set_reads_back_and_every_cut_is_noticed() {
        let set =
            ExtensionSet::new([file("b.so", 2), file("a.so", 1), file("b.so", 2)], ["Vec0".into()]).unwrap();
        assert_eq!(set.files().len(), 2);
        assert!(set.to_string().starts_with("a.so (sha256 010101010101…), b.so"), "{set}");
        let bytes = set.encode();
        assert_eq!(ExtensionSet::decode(&bytes).unwrap(), set);
        for end in 1..bytes.len() {
            assert_eq!(ExtensionSet::decode(&bytes[..end]), Err(MalformedSet), "{end}");
        }
        assert_eq!(ExtensionSet::decode(&[bytes.as_slice(), &[0]].concat()), Err(MalformedSet));
        assert_eq!(ExtensionSet::decode(&[0, 0]), Err(MalformedSet));
        assert_eq!(ExtensionSet::decode(&ExtensionSet::default().encode()), Ok(ExtensionSet::default()));
    }

    #[test]
    fn the_largest_set_fits_into_the_internal_table() {
        let name = |n: usize| format!("{n:0LONGEST_NAME$}");
        let files = (0..MOST_FILES).map(|n| file(&name(n), 0));
        let set = ExtensionSet::new(files, (0..MOST_MODULES).map(name)).unwrap();
        assert!(set.encode().len() <= super::super::super::meta::EXTENSIONS_ROOM, "{}", set.encode().len());
    }

    #[test]
    fn what_cannot_be_a_set_is_refused() {
        let refused = |files: Vec<ExtensionFile>, modules: Vec<String>| {
            ExtensionSet::new(files, modules).unwrap_err().to_string()
        };
        assert!(refused(vec![file("a", 1), file("a", 2)], vec![]).contains("different contents"));
        let many = (0..=MOST_FILES).map(|n| file(&n.to_string(), 0)).collect();
        assert!(refused(many, vec![]).contains("more than 30 extensions"));
        assert!(refused(vec![], vec![String::new()]).contains("not the name of a module"));
        for (name, valid) in [
            ("vec0.so", true),
            ("libx-1.2+3_.so", true),
            ("", false),
            (".hidden", false),
            ("a/b", false),
            ("a b", false),
            (&"x".repeat(65), false),
        ] {
            assert_eq!(ExtensionFile::is_name(name), valid, "{name}");
        }
    }
}
