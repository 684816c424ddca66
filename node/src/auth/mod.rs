//! Who may do what: users from a file or a directory of files, one check for each route of the client port.
//!
//! The file is rqlite's: a JSON array of `{"username", "password", "perms"}`. The user `*` is everybody, also without
//! credentials. A password is plain text, or a hash: Argon2 in PHC form, or bcrypt. A name may stand in several entries;
//! each password has the permissions of its own entry, so that passwords are exchanged with an overlap.

pub(crate) mod authenticator;
mod caller;
mod password;
mod permission;
pub(crate) mod users;

pub use authenticator::{Authenticator, Denied, basic, plain_password};
pub use caller::Caller;
pub use password::hash;
pub use permission::{Permission, Permissions};
pub use users::{Users, UsersError};
