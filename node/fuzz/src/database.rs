//! A file that a client says is a database. It is refused, or what is made of it is a sound database of ours that a member
//! can go on with.

use node::fuzzing::write_canonical;
use node::store::{Loaded, Seed, Store, integrity};
use std::time::Duration;

pub fn run(input: &[u8]) {
    let directory = tempfile::tempdir().unwrap();
    let upload = directory.path().join("upload");
    std::fs::write(&upload, input).unwrap();
    let seed = Seed::new(&directory.path().join("data")).unwrap();
    if write_canonical(&upload, &seed.path()).is_err() {
        return;
    }
    let path = seed.path();
    assert_eq!(integrity(&path, &Loaded::none()), Ok(()));
    seed.finish().unwrap();
    let store = Store::open(&directory.path().join("data"), false, Duration::from_secs(60)).unwrap();
    assert!(store.applied().log_id.is_none());
    futures::executor::block_on(store.close()).unwrap();
}
