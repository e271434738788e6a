//! Which systemd unit a process belongs to, by its control group: the service manager puts each unit's processes into a group of the
//! unit's name, and only root can move a process elsewhere. No D-Bus: the same answer without a daemon to ask, to wait for or to trust.
//!
//! The unit is the *first* part of the path that is no slice. What lies deeper was made by the unit itself: a user's own service
//! manager can call its units what it likes, but all of them lie below `user@<uid>.service`.

use std::path::{Path, PathBuf};

use super::proc::Proc;

/// Kinds of units that have processes.
const KINDS: [&str; 5] = [".service", ".scope", ".socket", ".mount", ".swap"];
/// The longest name of a unit.
const MAX_NAME: usize = 255;
/// Where the system's units are, in the order in which systemd looks (systemd.unit(5)).
const FOLDERS: [&str; 13] = [
    "/etc/systemd/system.control",
    "/run/systemd/system.control",
    "/run/systemd/transient",
    "/run/systemd/generator.early",
    "/etc/systemd/system",
    "/etc/systemd/system.attached",
    "/run/systemd/system",
    "/run/systemd/system.attached",
    "/run/systemd/generator",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
    "/run/systemd/generator.late",
];

/// The unit in the content of `/proc/<pid>/cgroup`; `None` for a process of no unit.
pub(super) fn unit(cgroup: &str) -> Option<String> {
    let path_of = |controllers: &str| {
        let mut lines = cgroup.lines().filter_map(|line| line.split_once(':').map(|(_, rest)| rest));
        lines.find_map(|line| line.strip_prefix(controllers)?.strip_prefix(':'))
    };
    // Version 2, or systemd's own hierarchy where version 1 is in use.
    let unified = path_of("").filter(|path| *path != "/");
    let path = unified.or_else(|| path_of("name=systemd"))?;
    let parts: Vec<_> = path.strip_prefix('/')?.split('/').collect();
    if parts.contains(&"..") {
        return None; // a group outside of what we can see
    }
    let first = parts.into_iter().find(|part| !part.ends_with(".slice"))?;
    let name = first.strip_prefix('_').unwrap_or(first); // how systemd escapes names that the kernel reserves
    let allowed = |letter: char| letter.is_ascii_alphanumeric() || ":-_.\\@".contains(letter);
    let good = name.len() <= MAX_NAME
        && name.chars().all(allowed)
        && KINDS.iter().any(|kind| name.strip_suffix(kind).is_some_and(|stem| !stem.is_empty()));
    good.then(|| name.to_owned())
}

/// The file that the unit was loaded from: its own, or its template's.
pub(super) fn fragment(unit: &str, proc: &dyn Proc) -> Option<PathBuf> {
    let find = |name: &str| FOLDERS.iter().map(|folder| Path::new(folder).join(name)).find(|path| proc.has_file(path));
    find(unit).or_else(|| {
        let (stem, rest) = unit.split_once('@')?;
        let (_, kind) = rest.rsplit_once('.')?;
        find(&format!("{stem}@.{kind}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_is_the_first_part_that_is_no_slice() {
        for (cgroup, wanted) in [
            ("0::/system.slice/nginx.service\n", Some("nginx.service")),
            ("0::/system.slice/system-pay.slice/pay@1.service\n", Some("pay@1.service")),
            ("0::/system.slice/nginx.service/worker-3\n", Some("nginx.service")),
            ("0::/init.scope\n", Some("init.scope")),
            ("0::/system.slice/docker-0ab1.scope/system.slice/nginx.service\n", Some("docker-0ab1.scope")),
            ("0::/system.slice/_x.service\n", Some("x.service")),
            ("12:pids:/a\n1:name=systemd:/system.slice/nginx.service\n0::/\n", Some("nginx.service")),
            ("1:name=systemd:/system.slice/old.service\n0::/system.slice/new.service\n", Some("new.service")),
            ("0::/\n", None),
            ("0::/system.slice\n", None),
            ("0::/docker/0ab1\n", None),
            ("0::/../other.service\n", None),
            ("0::/system.slice/.service\n", None),
            ("0::/system.slice/a b.service\n", None),
            ("", None),
            ("garbage", None),
        ] {
            assert_eq!(unit(cgroup).as_deref(), wanted, "{cgroup:?}");
        }
        assert_eq!(unit(&format!("0::/{}.service", "a".repeat(300))), None);
    }

    #[test]
    fn a_user_cannot_call_a_unit_of_its_own_by_the_systems_names() {
        let own = "0::/user.slice/user-1000.slice/user@1000.service/app.slice/nginx.service\n";
        assert_eq!(unit(own).as_deref(), Some("user@1000.service"));
        assert_eq!(unit("0::/user.slice/user-1000.slice/session-3.scope\n").as_deref(), Some("session-3.scope"));
    }
}
