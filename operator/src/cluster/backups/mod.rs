//! Backups of a cluster: which are due, which are no longer kept, and how they go. What decides is pure; the store is slow,
//! so that what waits for it is an errand beside the reconciles.

pub mod act;
pub mod health;
pub mod retention;
pub mod schedule;
pub mod seen;
pub mod verify;

pub use schedule::{BackupPlan, Expiry, NewBackup, plan};
pub use seen::{BackupState, BackupView, BackupsView, Probed};
