//! What the child that opens files of clients cannot do any more, once it has what it needs: no other file, no network, no
//! other program or process. Whoever gets code of theirs to run there holds a file that they sent themselves.
//!
//! Landlock says which paths may be opened. Everything else is refused by seccomp, with an error (EPERM) and not by an end
//! of the process: C libraries try this and that, and do without it. What is refused is listed, not what is allowed: which
//! calls allocation, threads and clocks make changes from one version of the C library to the next.
//!
//! A kernel without one of the two, or a container that forbids them, refuses no file: the child goes on with its limits,
//! and the member says so.
//!
//! Sources: landlock(7); seccomp(2), also for the second table of calls on x86-64; clone(2), clone3(2).

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, PathBeneath, PathFd, PathFdError, Ruleset, RulesetAttr as _,
    RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope, path_beneath_rules,
};
use libc::c_long;
use parking_lot::Mutex;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// The newest Landlock that is known here. An older kernel does what it can of it.
const LANDLOCK: ABI = ABI::V6;

/// Refused whatever the arguments are.
const REFUSED: &[c_long] = &[
    // To talk to others.
    libc::SYS_socket,
    libc::SYS_socketpair,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_sendmmsg,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
    libc::SYS_shmget,
    libc::SYS_shmat,
    libc::SYS_shmctl,
    libc::SYS_msgget,
    libc::SYS_msgsnd,
    libc::SYS_msgrcv,
    libc::SYS_msgctl,
    libc::SYS_semget,
    libc::SYS_semop,
    libc::SYS_semtimedop,
    libc::SYS_semctl,
    libc::SYS_mq_open,
    libc::SYS_mq_unlink,
    // Other programs, other processes.
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_memfd_create,
    libc::SYS_memfd_secret,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_process_mrelease,
    libc::SYS_kcmp,
    libc::SYS_kill,
    libc::SYS_tkill,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    libc::SYS_setpriority,
    libc::SYS_sched_setscheduler,
    libc::SYS_sched_setparam,
    libc::SYS_sched_setattr,
    libc::SYS_sched_setaffinity,
    libc::SYS_ioprio_set,
    libc::SYS_migrate_pages,
    libc::SYS_move_pages,
    // Another view of the system.
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_chroot,
    libc::SYS_pivot_root,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_fanotify_init,
    libc::SYS_fanotify_mark,
    libc::SYS_personality,
    // The kernel.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_syslog,
    libc::SYS_acct,
    libc::SYS_reboot,
    libc::SYS_vhangup,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    // Another user.
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_setgroups,
    libc::SYS_setpgid,
    libc::SYS_setsid,
    libc::SYS_capset,
    // What files of others are, which Landlock does not see. SQLite goes by descriptors.
    libc::SYS_truncate,
    libc::SYS_fchmodat,
    FCHMODAT2,
    libc::SYS_fchownat,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_utimensat,
];

/// Those that only one architecture has.
#[cfg(target_arch = "x86_64")]
const REFUSED_HERE: &[c_long] = &[
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_modify_ldt,
    libc::SYS_chmod,
    libc::SYS_chown,
    libc::SYS_lchown,
    libc::SYS_utime,
    libc::SYS_utimes,
    libc::SYS_futimesat,
];
#[cfg(not(target_arch = "x86_64"))]
const REFUSED_HERE: &[c_long] = &[];

/// The same everywhere; not every table of names has it.
const FCHMODAT2: c_long = 452;

/// On x86-64 a kernel may take every call under a second number, with this bit, and some under numbers that only exist so.
#[cfg(target_arch = "x86_64")]
const SECOND_TABLE: Option<(c_long, std::ops::RangeInclusive<c_long>)> = Some((0x4000_0000, 512..=547));
#[cfg(not(target_arch = "x86_64"))]
const SECOND_TABLE: Option<(c_long, std::ops::RangeInclusive<c_long>)> = None;

/// Why a part of it could not be had.
#[derive(Debug, thiserror::Error)]
enum Lack {
    #[error("this system has no Landlock, or forbids it")]
    NoLandlock,
    #[error("Landlock: {0}")]
    Landlock(#[from] RulesetError),
    #[error("Landlock: {0}")]
    Path(#[from] PathFdError),
    #[error("seccomp: {0}")]
    Program(#[from] BackendError),
    #[error("seccomp: {0}")]
    Seccomp(#[from] seccompiler::Error),
}

/// Confines this thread, and those that it starts, for good: it can open `input`, what is in the directory `room`, and
/// nothing else. Returns what could not be had of the system, in words.
pub fn confine(input: &Path, room: &Path) -> Vec<String> {
    // Landlock first: seccomp may not know its calls.
    let parts = [keep_to_paths(input, room), refuse_calls()];
    parts.into_iter().filter_map(Result::err).map(|lack| lack.to_string()).collect()
}

fn keep_to_paths(input: &Path, room: &Path) -> Result<(), Lack> {
    let of_input = AccessFs::ReadFile | AccessFs::WriteFile;
    let in_room =
        of_input | AccessFs::Truncate | AccessFs::ReadDir | AccessFs::MakeReg | AccessFs::RemoveFile;
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(LANDLOCK))?
        .handle_access(AccessNet::from_all(LANDLOCK))?
        .scope(Scope::from_all(LANDLOCK))?
        .create()?
        .add_rule(PathBeneath::new(PathFd::new(input)?, of_input))?
        .add_rule(PathBeneath::new(PathFd::new(room)?, in_room))?
        // SQLite names temporary files by chance.
        .add_rules(path_beneath_rules(["/dev/urandom"], AccessFs::ReadFile))?
        .restrict_self()?;
    if status.ruleset == RulesetStatus::NotEnforced { Err(Lack::NoLandlock) } else { Ok(()) }
}

fn refuse_calls() -> Result<(), Lack> {
    for filter in [not_permitted()?, not_there()?] {
        seccompiler::apply_filter(&filter)?;
    }
    Ok(())
}

/// What is refused as if this user might not.
fn not_permitted() -> Result<BpfProgram, BackendError> {
    let mut rules = BTreeMap::new();
    for call in REFUSED.iter().chain(REFUSED_HERE) {
        add(&mut rules, *call, &[]);
    }
    // Threads are started by it, and processes.
    let flag = libc::CLONE_THREAD as u64;
    add(&mut rules, libc::SYS_clone, &[argument(SeccompCmpOp::MaskedEq(flag), 0)?]);
    // A process that aborts signals itself, one that asks for its limits means itself.
    let own = u64::from(std::process::id());
    add(&mut rules, libc::SYS_tgkill, &[argument(SeccompCmpOp::Ne, own)?]);
    add(&mut rules, libc::SYS_prlimit64, &[argument(SeccompCmpOp::Ne, 0)?]);
    if let Some((bit, only_there)) = SECOND_TABLE {
        rules.extend(only_there.map(|call| (bit | call, Vec::new())));
    }
    program(rules, libc::EPERM)
}

/// What is refused as if the kernel were older. A filter does not see the flags of clone3; C libraries take clone then.
fn not_there() -> Result<BpfProgram, BackendError> {
    let mut rules = BTreeMap::new();
    add(&mut rules, libc::SYS_clone3, &[]);
    program(rules, libc::ENOSYS)
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Adds a call, where its first argument fits the condition, or whatever it is.
fn add(rules: &mut Rules, call: c_long, conditions: &[SeccompRule]) {
    rules.insert(call, conditions.to_vec());
    if let Some((bit, _)) = SECOND_TABLE {
        rules.insert(bit | call, conditions.to_vec());
    }
}

fn argument(operator: SeccompCmpOp, value: u64) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(vec![SeccompCondition::new(0, SeccompCmpArgLen::Dword, operator, value)?])
}

fn program(rules: Rules, errno: i32) -> Result<BpfProgram, BackendError> {
    let arch: TargetArch = std::env::consts::ARCH.try_into()?;
    let refusal = SeccompAction::Errno(errno.unsigned_abs());
    SeccompFilter::new(rules, SeccompAction::Allow, refusal, arch)?.try_into()
}

/// What the system does not give the children of a member, as the last one told.
#[derive(Clone, Debug, Default)]
pub struct Lacks(Arc<Mutex<Option<Vec<String>>>>);

impl Lacks {
    /// Notes what a child told, a line for each. The log says it when it is another than before.
    pub fn note(&self, told: &[u8]) {
        let lacks: Vec<String> = String::from_utf8_lossy(told).lines().map(ToOwned::to_owned).collect();
        let before = self.0.lock().replace(lacks.clone()).unwrap_or_default();
        if before == lacks {
            return;
        }
        if lacks.is_empty() {
            tracing::info!("databases of clients are checked by a process that is confined");
        } else {
            tracing::warn!(
                lacks = lacks.join("; "),
                "databases of clients are checked by a process that is limited, but not confined"
            );
        }
    }

    /// What it is; none if no child has told yet.
    pub fn known(&self) -> Option<Vec<String>> {
        self.0.lock().clone()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn filters_are_taken_by_the_kernel() {
        let dir = tempfile::tempdir().unwrap();
        let input = dir.path().join("in");
        std::fs::write(&input, b"x").unwrap();
        // Each thread has its own.
        let confined = std::thread::spawn({
            let (input, room) = (input.clone(), dir.path().join("room"));
            move || {
                std::fs::create_dir(&room).unwrap();
                (confine(&input, &room), confine(&input, Path::new("/nowhere")))
            }
        });
        let (lacks, again) = confined.join().unwrap();
        assert!(lacks.iter().all(|lack| lack.starts_with("this system")), "{lacks:?}");
        assert_eq!(again.len(), 1, "{again:?}");
    }

    #[test]
    fn what_children_lack_is_what_the_last_one_told() {
        let lacks = Lacks::default();
        assert_eq!(lacks.known(), None);
        lacks.note(b"seccomp: no\nLandlock: no\n");
        assert_eq!(lacks.known().unwrap(), ["seccomp: no", "Landlock: no"]);
        lacks.note(b"");
        assert_eq!(lacks.known().unwrap(), [""; 0]);
    }
}
