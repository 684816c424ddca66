//! Who this member is: kept in `identity.json` of the data directory, synced before anything depends on it.
//!
//! The Raft id is random, made once with the directory and never used again: a member that lost its disk is a new
//! member. A name (`-node-id`, the pod's name) is only a name.
//!
//! A digit that the disk changed would make another member of it, or one that uses names of requests again, so the file
//! ends with a checksum of the rest. Format 1 had none; it is read, and written as the present one at the start.

use crate::set_aside;
use client::admin::{AddLearner, NodeId};
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

const FILE: &str = "identity.json";
const FORMAT: u32 = 2;
/// The one before, without a checksum.
const UNSUMMED: u32 = 1;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Kept {
    format: u32,
    node_id: NodeId,
    boot: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cluster_id: Option<String>,
    epoch: u64,
    /// With whom this member was to make its cluster, until it has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    founders: Vec<AddLearner>,
    /// Why this volume is no member's any more: others found that it was put back to an earlier state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rolled_back: Option<String>,
    /// Why this volume is no member's any more: the cluster went on without it. Undone by whatever makes this member one of
    /// a later epoch, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    outlived: Option<String>,
    /// Who this member was, if it lost what it promised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    former: Option<Former>,
    /// Of all before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    checksum: Option<String>,
}

impl Kept {
    /// CRC-32C of the rest, as it would be written on one line.
    fn sum(&self) -> Result<String, serde_json::Error> {
        let rest = serde_json::to_vec(&Self { checksum: None, ..self.clone() })?;
        Ok(format!("{:08x}", crc32c::crc32c(&rest)))
    }

    /// Reads what was written to `path`.
    fn decode(path: &Path, bytes: &[u8]) -> Result<Self, IdentityError> {
        let decode = |source| IdentityError::Decode { path: path.to_owned(), source };
        let kept: Self = serde_json::from_slice(bytes).map_err(decode)?;
        let expected = kept.sum().map_err(decode)?;
        match (kept.format, &kept.checksum) {
            (FORMAT | UNSUMMED, Some(found)) if *found == expected => Ok(kept),
            (UNSUMMED, None) => Ok(kept),
            (FORMAT | UNSUMMED, _) => Err(IdentityError::Damaged { path: path.to_owned() }),
            (format, _) => Err(IdentityError::Format { path: path.to_owned(), format }),
        }
    }
}

/// One start of a member, as it tells it to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// Which one it is: as its volume counts them.
    pub boot: u64,
    /// Drawn for it, and kept nowhere: two starts from copies of a volume have different ones.
    pub nonce: u64,
}

/// Who a member was that comes back as a new one. It makes no cluster, and joins no other: then what its cluster had could
/// be forgotten while it exists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Former {
    /// Its Raft id.
    pub node_id: NodeId,
    /// Its cluster.
    pub cluster_id: String,
}

/// Of which cluster a member is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterIdentity {
    /// Minted once for a cluster, in every peer message.
    pub cluster_id: String,
    /// Raised by the recovery from a lost quorum; a member with a lower one neither votes nor serves.
    pub epoch: u64,
}

/// The identity of this member.
#[derive(Debug)]
pub struct Identity {
    directory: PathBuf,
    nonce: u64,
    kept: RwLock<Kept>,
}

/// The identity could not be read, written or changed.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file could not be read.
    #[error("read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not what was written.
    #[error(
        "{} is damaged: its checksum is not that of the rest. Bring the file back as it was from a copy of this disk, or \
         give the member an empty disk: it comes back as a new member",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// The file is not an identity.
    #[error(
        "{} is not an identity of this version: {source}. If it is damaged, give the member an empty disk: it comes back \
         as a new member",
        path.display()
    )]
    Decode {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// The file is of another version.
    #[error("{} has format {format}; this version reads formats up to {FORMAT}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: u32,
    },
    /// The file could not be written.
    #[error("write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Other members found that its volume was put back to an earlier state, or copied.
    #[error("{why}")]
    RolledBack {
        /// What they found, and what to do.
        why: String,
    },
    /// The member is to come back to its cluster.
    #[error(
        "this member comes back to cluster {cluster} as a new one, because its log was damaged: it makes no cluster and \
         joins no other. What it had is in the directory damaged-… beside this one's files"
    )]
    ComesBack {
        /// Its cluster.
        cluster: String,
    },
    /// The member already belongs to another cluster.
    #[error("this member belongs to cluster {own}, not to {other}")]
    OtherCluster {
        /// Its cluster.
        own: String,
        /// The one that it was asked to join.
        other: String,
    },
}

impl Identity {
    /// Reads the identity in `directory`, or makes a new one; counts this start.
    pub fn open(directory: &Path) -> Result<Self, IdentityError> {
        let path = directory.join(FILE);
        let mut kept = match fs::read(&path) {
            Ok(bytes) => Kept { format: FORMAT, ..Kept::decode(&path, &bytes)? },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // 0 stands for "unknown" in peer messages.
                let node_id = NodeId(rand::random_range(1..=u64::MAX));
                Kept {
                    format: FORMAT,
                    node_id,
                    boot: 0,
                    cluster_id: None,
                    epoch: 0,
                    founders: Vec::new(),
                    rolled_back: None,
                    outlived: None,
                    former: set_aside::former(directory)?,
                    checksum: None,
                }
            }
            Err(source) => return Err(IdentityError::Read { path, source }),
        };
        if let Some(why) = kept.rolled_back {
            return Err(IdentityError::RolledBack { why });
        }
        kept.boot += 1;
        let (directory, nonce) = (directory.to_owned(), rand::random());
        let identity = Self { directory, nonce, kept: RwLock::new(kept.clone()) };
        identity.write(&kept)?;
        Ok(identity)
    }

    /// Who the member was whose identity is in `directory`; none if it was of no cluster, or there is none.
    pub fn former_in(directory: &Path) -> Result<Option<Former>, IdentityError> {
        let path = directory.join(FILE);
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(|source| IdentityError::Read { path: path.clone(), source })?,
        };
        let Kept { node_id, cluster_id, .. } = Kept::decode(&path, &bytes)?;
        Ok(cluster_id.map(|cluster_id| Former { node_id, cluster_id }))
    }

    /// Who this member was, if it lost what it promised.
    pub fn former(&self) -> Option<Former> {
        self.kept.read().former.clone()
    }

    /// The Raft id.
    pub fn node_id(&self) -> NodeId {
        self.kept.read().node_id
    }

    /// How often the member was started, this time included.
    pub fn boot(&self) -> u64 {
        self.kept.read().boot
    }

    /// Which start this is, as others are told.
    pub fn start(&self) -> Start {
        Start { boot: self.boot(), nonce: self.nonce }
    }

    /// Why this volume is no member's any more, if that was found.
    pub fn rolled_back(&self) -> Option<String> {
        self.kept.read().rolled_back.clone()
    }

    /// Notes for good, also for later starts, why this volume is no member's any more; returns after it is on disk.
    pub fn set_rolled_back(&self, why: &str) -> Result<(), IdentityError> {
        let mut kept = self.kept.write();
        kept.rolled_back = Some(why.to_owned());
        self.write(&kept)
    }

    /// Why the cluster goes on without this volume, if it does.
    pub fn outlived(&self) -> Option<String> {
        self.kept.read().outlived.clone()
    }

    /// Notes for good, also for later starts, that the cluster goes on without this volume; returns after it is on disk.
    pub fn set_outlived(&self, why: &str) -> Result<(), IdentityError> {
        let mut kept = self.kept.write();
        kept.outlived = Some(why.to_owned());
        self.write(&kept)
    }

    /// Of which cluster it is; none while its disk is empty.
    pub fn cluster(&self) -> Option<ClusterIdentity> {
        let kept = self.kept.read();
        kept.cluster_id.clone().map(|cluster_id| ClusterIdentity { cluster_id, epoch: kept.epoch })
    }

    /// Makes the member one of `cluster`, for good; returns after it is on disk. Saying it again changes nothing.
    pub fn adopt(&self, cluster: &ClusterIdentity) -> Result<(), IdentityError> {
        self.found(cluster, &[])
    }

    /// The same, and notes with whom it makes that cluster: an end before it has is not the end of it.
    pub fn found(&self, cluster: &ClusterIdentity, founders: &[AddLearner]) -> Result<(), IdentityError> {
        let mut kept = self.kept.write();
        if let Some(own) = &kept.cluster_id {
            if *own == cluster.cluster_id {
                return Ok(());
            }
            return Err(IdentityError::OtherCluster { own: own.clone(), other: cluster.cluster_id.clone() });
        }
        if let Some(Former { cluster_id, .. }) = &kept.former
            && (!founders.is_empty() || *cluster_id != cluster.cluster_id)
        {
            return Err(IdentityError::ComesBack { cluster: cluster_id.clone() });
        }
        let adopted = Kept {
            cluster_id: Some(cluster.cluster_id.clone()),
            epoch: cluster.epoch,
            founders: founders.to_vec(),
            ..kept.clone()
        };
        self.write(&adopted)?;
        *kept = adopted;
        Ok(())
    }

    /// With whom this member was to make its cluster; nobody once it has.
    pub fn founders(&self) -> Vec<AddLearner> {
        self.kept.read().founders.clone()
    }

    /// The cluster is made.
    pub fn founded(&self) -> Result<(), IdentityError> {
        let mut kept = self.kept.write();
        if kept.founders.is_empty() {
            return Ok(());
        }
        let founded = Kept { founders: Vec::new(), ..kept.clone() };
        self.write(&founded)?;
        *kept = founded;
        Ok(())
    }

    /// Raises the cluster's epoch; returns after it is on disk. A lower one changes nothing.
    pub fn raise_epoch(&self, epoch: u64) -> Result<(), IdentityError> {
        let mut kept = self.kept.write();
        if kept.epoch >= epoch {
            return Ok(());
        }
        let raised = Kept { epoch, outlived: None, ..kept.clone() };
        self.write(&raised)?;
        *kept = raised;
        Ok(())
    }

    fn write(&self, kept: &Kept) -> Result<(), IdentityError> {
        let write = || {
            let summed = Kept { checksum: Some(kept.sum()?), ..kept.clone() };
            replace_file(&self.directory, FILE, &serde_json::to_vec_pretty(&summed)?)
        };
        write().map_err(|source| IdentityError::Write { path: self.directory.join(FILE), source })
    }
}

/// Replaces a small file so that a crash leaves the old or the new content, and returns after it is on disk.
pub(crate) fn replace_file(directory: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    let new = directory.join(format!("{name}.new"));
    let mut file = File::create(&new)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&new, directory.join(name))?;
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_identity_is_made_once_and_adopted_once() {
        let dir = tempfile::tempdir().unwrap();
        let first = Identity::open(dir.path()).unwrap();
        assert_eq!((first.boot(), first.cluster()), (1, None));
        let cluster = ClusterIdentity { cluster_id: "c".into(), epoch: 1 };
        first.adopt(&cluster).unwrap();
        let again = Identity::open(dir.path()).unwrap();
        assert_eq!(again.node_id(), first.node_id());
        assert_eq!((again.boot(), again.cluster()), (2, Some(cluster.clone())));
        again.adopt(&cluster).unwrap();
        again.raise_epoch(3).unwrap();
        again.raise_epoch(2).unwrap();
        let raised = ClusterIdentity { epoch: 3, ..cluster.clone() };
        assert_eq!(Identity::open(dir.path()).unwrap().cluster(), Some(raised));
        let other = ClusterIdentity { cluster_id: "d".into(), epoch: 1 };
        assert!(matches!(again.adopt(&other), Err(IdentityError::OtherCluster { .. })));
    }

    #[test]
    fn founders_are_kept_until_the_cluster_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let identity = Identity::open(dir.path()).unwrap();
        let (name, address) = (String::from("n"), String::from("h:1"));
        let founder = AddLearner {
            node_id: identity.node_id(),
            name,
            raft_address: address.clone(),
            api_address: address,
        };
        let cluster = ClusterIdentity { cluster_id: "c".into(), epoch: 1 };
        identity.found(&cluster, std::slice::from_ref(&founder)).unwrap();
        let again = Identity::open(dir.path()).unwrap();
        assert_eq!((again.founders(), again.cluster()), (vec![founder], Some(cluster)));
        again.founded().unwrap();
        assert_eq!(Identity::open(dir.path()).unwrap().founders(), []);
    }

    #[test]
    fn a_volume_that_was_put_back_starts_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let first = Identity::open(dir.path()).unwrap();
        let second = Identity::open(dir.path()).unwrap();
        assert_eq!((first.start().boot, second.start().boot), (1, 2));
        assert_ne!(first.start().nonce, second.start().nonce);
        assert_eq!(second.rolled_back(), None);
        second.set_rolled_back("its volume").unwrap();
        assert_eq!(second.rolled_back().as_deref(), Some("its volume"));
        let refused = Identity::open(dir.path()).unwrap_err();
        assert_eq!(refused.to_string(), "its volume");
    }

    #[test]
    fn who_was_outlived_is_until_it_is_of_a_later_epoch() {
        let dir = tempfile::tempdir().unwrap();
        let identity = Identity::open(dir.path()).unwrap();
        identity.adopt(&ClusterIdentity { cluster_id: "c".into(), epoch: 1 }).unwrap();
        identity.set_outlived("epoch 2").unwrap();
        let again = Identity::open(dir.path()).unwrap();
        assert_eq!(again.outlived().as_deref(), Some("epoch 2"));
        again.raise_epoch(1).unwrap();
        assert_eq!(again.outlived().as_deref(), Some("epoch 2"));
        again.raise_epoch(2).unwrap();
        assert_eq!(Identity::open(dir.path()).unwrap().outlived(), None);
    }

    #[test]
    fn who_lost_what_it_promised_comes_back_to_its_cluster_and_to_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let cluster = |id: &str| ClusterIdentity { cluster_id: id.into(), epoch: 1 };
        let first = Identity::open(dir.path()).unwrap();
        first.adopt(&cluster("c")).unwrap();
        set_aside::begin(dir.path(), 1).unwrap();
        set_aside::resume(dir.path()).unwrap();
        let again = Identity::open(dir.path()).unwrap();
        assert_ne!(again.node_id(), first.node_id());
        let former = Former { node_id: first.node_id(), cluster_id: "c".into() };
        assert_eq!((again.former(), again.cluster()), (Some(former.clone()), None));
        let founder = AddLearner {
            node_id: again.node_id(),
            name: "n".into(),
            raft_address: "h:1".into(),
            api_address: "h:1".into(),
        };
        for (cluster, founders, may) in [
            (cluster("d"), &[][..], false),
            (cluster("d"), std::slice::from_ref(&founder), false),
            (cluster("c"), std::slice::from_ref(&founder), false),
            (cluster("c"), &[][..], true),
        ] {
            let found = again.found(&cluster, founders);
            assert_eq!(found.is_ok(), may, "{cluster:?} {found:?}");
            assert!(may || matches!(found, Err(IdentityError::ComesBack { .. })));
        }
        // Also after another start.
        assert_eq!(Identity::open(dir.path()).unwrap().former(), Some(former));
    }

    #[test]
    fn a_damaged_identity_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), b"{").unwrap();
        assert!(matches!(Identity::open(dir.path()), Err(IdentityError::Decode { .. })));
    }

    #[test]
    fn an_identity_without_a_checksum_is_read_and_gets_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let before =
            br#"{"format": 1, "nodeId": "00000000000000ff", "boot": 7, "clusterId": "c", "epoch": 2}"#;
        fs::write(&path, before).unwrap();
        let identity = Identity::open(dir.path()).unwrap();
        assert_eq!((identity.node_id(), identity.boot()), (NodeId(255), 8));
        assert_eq!(identity.cluster(), Some(ClusterIdentity { cluster_id: "c".into(), epoch: 2 }));
        let written = fs::read_to_string(&path).unwrap();
        assert!(written.contains("\"format\": 2") && written.contains("\"checksum\""), "{written}");
        assert_eq!(Identity::open(dir.path()).unwrap().boot(), 9);
    }

    #[test]
    fn a_changed_digit_is_not_another_member() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let cluster = ClusterIdentity { cluster_id: "c".into(), epoch: 1 };
        let first = Identity::open(dir.path()).unwrap();
        first.adopt(&cluster).unwrap();
        let whole = fs::read(&path).unwrap();
        let mut taken = 0;
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut damaged = whole.clone();
                damaged[at] ^= 1 << bit;
                fs::write(&path, &damaged).unwrap();
                if let Ok(identity) = Identity::open(dir.path()) {
                    taken += 1;
                    let found = (identity.node_id(), identity.boot(), identity.cluster());
                    let wanted = (first.node_id(), 2, Some(cluster.clone()));
                    assert_eq!(found, wanted, "byte {at}, bit {bit}");
                }
            }
        }
        // A digit of the id in capitals, white space for other white space.
        assert!(taken < 64, "{taken} of {} bits do not count", whole.len() * 8);
        for (without, wanted) in [("\"format\": 2", "\"format\": 1"), ("\"format\": 2", "\"format\": 3")] {
            let other = String::from_utf8(whole.clone()).unwrap().replace(without, wanted);
            fs::write(&path, other).unwrap();
            assert!(Identity::open(dir.path()).is_err(), "{wanted}");
        }
        let lines = String::from_utf8(whole).unwrap();
        let unsummed: Vec<&str> = lines.lines().filter(|line| !line.contains("checksum")).collect();
        fs::write(&path, unsummed.join("\n").replace("\"epoch\": 1,", "\"epoch\": 1")).unwrap();
        let error = Identity::open(dir.path()).unwrap_err();
        assert!(matches!(error, IdentityError::Damaged { .. }), "{error}");
        assert!(error.to_string().contains("empty disk"), "{error}");
    }
}
