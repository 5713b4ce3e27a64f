//! What control groups allow, read from the files of either version.
//!
//! | | version 1 | version 2 |
//! |---|---|---|
//! | quota | `cpu.cfs_quota_us` / `cpu.cfs_period_us` | `cpu.max` |
//! | CPUs | `cpuset.effective_cpus`, else `cpuset.cpus` | `cpuset.cpus.effective` |
//!
//! A quota of any ancestor binds too, so the smallest on the way up to the mount counts; of CPUs the nearest group
//! that has the file, which already is the intersection. Files that are missing or damaged limit nothing.

use std::path::{Path, PathBuf};

use super::list;

/// Reads a file; `None` if there is none.
pub(super) type Read<'a> = &'a dyn Fn(&Path) -> Option<String>;

/// A quota and the file that says so.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Quota {
    pub(super) cpus: f64,
    pub(super) file: PathBuf,
}

/// A set of CPUs and the file that says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cpuset {
    pub(super) cpus: Vec<usize>,
    pub(super) file: PathBuf,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Limits {
    pub(super) quota: Option<Quota>,
    pub(super) cpuset: Option<Cpuset>,
}

/// The limits of the process's groups. A controller lives in one version only; where both are mounted each is asked.
pub(super) fn limits(read: Read<'_>) -> Limits {
    let (Some(groups), Some(mounts)) = (read(Path::new("/proc/self/cgroup")), read(Path::new("/proc/self/mountinfo")))
    else {
        return Limits::default();
    };
    let find = |controller| group(&groups, &mounts, controller);
    let quotas = [
        find(Controller::V2).and_then(|group| group.smallest_quota(&|dir| quota_v2(read, dir))),
        find(Controller::V1("cpu")).and_then(|group| group.smallest_quota(&|dir| quota_v1(read, dir))),
    ];
    let cpuset = |controller, names: &[&str]| find(controller).and_then(|group| group.nearest_cpuset(read, names));
    Limits {
        quota: quotas.into_iter().flatten().min_by(|a, b| a.cpus.total_cmp(&b.cpus)),
        cpuset: cpuset(Controller::V2, &["cpuset.cpus.effective"])
            .or_else(|| cpuset(Controller::V1("cpuset"), &["cpuset.effective_cpus", "cpuset.cpus"])),
    }
}

#[derive(Clone, Copy)]
enum Controller {
    V1(&'static str),
    V2,
}

/// The process's group in one hierarchy.
struct Group {
    mount: PathBuf,
    dir: PathBuf,
}

impl Group {
    /// From the group up to the mount, both included.
    fn upwards(&self) -> impl Iterator<Item = &Path> {
        self.dir.ancestors().take_while(|dir| dir.starts_with(&self.mount))
    }

    fn smallest_quota(&self, quota: &dyn Fn(&Path) -> Option<Quota>) -> Option<Quota> {
        self.upwards().filter_map(quota).min_by(|a, b| a.cpus.total_cmp(&b.cpus))
    }

    fn nearest_cpuset(&self, read: Read<'_>, names: &[&str]) -> Option<Cpuset> {
        let files = self.upwards().flat_map(|dir| names.iter().map(|name| dir.join(name)));
        files.into_iter().find_map(|file| {
            let cpus = list::parse(&read(&file)?).filter(|cpus| !cpus.is_empty())?;
            Some(Cpuset { cpus, file })
        })
    }
}

fn quota_v2(read: Read<'_>, dir: &Path) -> Option<Quota> {
    let file = dir.join("cpu.max");
    let text = read(&file)?;
    let mut words = text.split_whitespace();
    let (quota_us, period_us) = (words.next()?.parse().ok()?, words.next().map_or(Some(100_000), |p| p.parse().ok())?);
    Some(Quota { cpus: ratio(quota_us, period_us)?, file })
}

fn quota_v1(read: Read<'_>, dir: &Path) -> Option<Quota> {
    let file = dir.join("cpu.cfs_quota_us");
    let quota_us = read(&file)?.trim().parse().ok()?;
    let period_us = read(&dir.join("cpu.cfs_period_us"))?.trim().parse().ok()?;
    Some(Quota { cpus: ratio(quota_us, period_us)?, file })
}

/// `None` for "no limit", which version 1 writes as -1, and for damage.
fn ratio(quota_us: i64, period_us: i64) -> Option<f64> {
    (quota_us > 0 && period_us > 0).then(|| quota_us as f64 / period_us as f64)
}

/// Where a controller's group of this process lies in the file system.
fn group(groups: &str, mounts: &str, controller: Controller) -> Option<Group> {
    let path = groups.lines().find_map(|line| path_of(line, controller))?;
    let (root, mount) = mounts.lines().find_map(|line| mount_of(line, controller))?;
    // The mount may show a subtree only (a container); a path outside of it, or through `..`, is not visible from here.
    let below = Path::new(path).strip_prefix(&root).ok().filter(|below| !below.iter().any(|part| part == ".."));
    let dir = below.map_or_else(|| mount.clone(), |below| mount.join(below));
    Some(Group { mount, dir })
}

/// The path in a line `ID:CONTROLLERS:PATH` of `/proc/self/cgroup`.
fn path_of(line: &str, controller: Controller) -> Option<&str> {
    let mut fields = line.splitn(3, ':');
    let (id, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
    let matches = match controller {
        Controller::V1(name) => controllers.split(',').any(|each| each == name),
        Controller::V2 => id == "0" && controllers.is_empty(),
    };
    matches.then_some(path)
}

/// The root and the mount point in a line of `/proc/self/mountinfo`, whose fields are
/// `ID PARENT DEVICE ROOT MOUNT OPTIONS [OPTIONAL...] - TYPE SOURCE SUPER-OPTIONS`.
fn mount_of(line: &str, controller: Controller) -> Option<(PathBuf, PathBuf)> {
    let (mount, filesystem) = line.split_once(" - ")?;
    let mut filesystem = filesystem.split(' ');
    let (kind, _source, options) = (filesystem.next()?, filesystem.next()?, filesystem.next()?);
    let matches = match controller {
        Controller::V1(name) => kind == "cgroup" && options.split(',').any(|each| each == name),
        Controller::V2 => kind == "cgroup2",
    };
    let mut mount = mount.split(' ').skip(3);
    let (root, point) = (mount.next()?, mount.next()?);
    matches.then(|| (unescape(root).into(), unescape(point).into()))
}

/// Spaces, tabs, newlines and backslashes of a path come as octal escapes.
fn unescape(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (escape, plain)| text.replace(escape, plain))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn limits_of(files: &[(&str, &str)]) -> Limits {
        let files: HashMap<PathBuf, String> =
            files.iter().map(|(path, text)| (PathBuf::from(path), (*text).to_owned())).collect();
        limits(&|path| files.get(path).cloned())
    }

    const V2_MOUNT: &str =
        "30 23 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";

    #[test]
    fn version_2_quota_of_the_group_with_its_file() {
        let limits = limits_of(&[
            ("/proc/self/cgroup", "0::/system.slice/kv.service\n"),
            ("/proc/self/mountinfo", V2_MOUNT),
            ("/sys/fs/cgroup/system.slice/kv.service/cpu.max", "150000 100000\n"),
            ("/sys/fs/cgroup/system.slice/kv.service/cpuset.cpus.effective", "0-1\n"),
        ]);
        let quota = limits.quota.expect("a quota");
        assert_eq!(quota.cpus, 1.5);
        assert_eq!(quota.file, Path::new("/sys/fs/cgroup/system.slice/kv.service/cpu.max"));
        assert_eq!(limits.cpuset.expect("a set").cpus, [0, 1]);
    }

    #[test]
    fn version_2_an_ancestors_smaller_quota_binds_and_its_cpuset_is_inherited() {
        let limits = limits_of(&[
            ("/proc/self/cgroup", "0::/a/b\n"),
            ("/proc/self/mountinfo", V2_MOUNT),
            ("/sys/fs/cgroup/a/b/cpu.max", "400000 100000\n"),
            ("/sys/fs/cgroup/a/cpu.max", "200000 100000\n"),
            ("/sys/fs/cgroup/a/cpuset.cpus.effective", "4-7\n"),
            ("/sys/fs/cgroup/cpuset.cpus.effective", "0-7\n"),
        ]);
        assert_eq!(limits.quota.map(|quota| quota.cpus), Some(2.0));
        assert_eq!(limits.cpuset.map(|set| set.cpus), Some(vec![4, 5, 6, 7]));
    }

    #[test]
    fn version_2_max_is_no_quota() {
        let limits = limits_of(&[
            ("/proc/self/cgroup", "0::/\n"),
            ("/proc/self/mountinfo", V2_MOUNT),
            ("/sys/fs/cgroup/cpu.max", "max 100000\n"),
        ]);
        assert_eq!(limits, Limits::default());
    }

    const V1_MOUNTS: &str = "\
        33 32 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
        34 32 0:30 /docker/abc /sys/fs/cgroup/cpu,cpuacct ro,nosuid master:11 - cgroup cgroup rw,cpu,cpuacct\n\
        35 32 0:31 /docker/abc /sys/fs/cgroup/cpuset ro,nosuid master:12 - cgroup cgroup rw,cpuset\n";
    const V1_GROUPS: &str = "5:cpuset:/docker/abc\n4:cpu,cpuacct:/docker/abc\n0::/\n";

    #[test]
    fn version_1_in_a_container_reads_the_mounted_subtree() {
        let limits = limits_of(&[
            ("/proc/self/cgroup", V1_GROUPS),
            ("/proc/self/mountinfo", V1_MOUNTS),
            ("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "50000\n"),
            ("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
            ("/sys/fs/cgroup/cpuset/cpuset.cpus", "2,4\n"),
        ]);
        assert_eq!(limits.quota.map(|quota| quota.cpus), Some(0.5));
        assert_eq!(limits.cpuset.map(|set| set.cpus), Some(vec![2, 4]));
    }

    #[test]
    fn version_1_minus_one_is_no_quota() {
        let limits = limits_of(&[
            ("/proc/self/cgroup", V1_GROUPS),
            ("/proc/self/mountinfo", V1_MOUNTS),
            ("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n"),
            ("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
        ]);
        assert_eq!(limits, Limits::default());
    }

    #[test]
    fn a_path_outside_of_the_mount_falls_back_to_the_mount() {
        let limits = limits_of(&[
            ("/proc/self/cgroup", "0::/../other\n"),
            ("/proc/self/mountinfo", V2_MOUNT),
            ("/sys/fs/cgroup/cpu.max", "100000 50000\n"),
        ]);
        assert_eq!(limits.quota.map(|quota| quota.cpus), Some(2.0));
    }

    #[test]
    fn damage_and_absence_limit_nothing() {
        assert_eq!(limits_of(&[]), Limits::default());
        assert_eq!(limits_of(&[("/proc/self/cgroup", "garbage"), ("/proc/self/mountinfo", "- -")]), Limits::default());
        for text in ["", "max", "0 100000", "100000 0", "-5 -5", "many 100000", "1e9"] {
            let limits = limits_of(&[
                ("/proc/self/cgroup", "0::/\n"),
                ("/proc/self/mountinfo", V2_MOUNT),
                ("/sys/fs/cgroup/cpu.max", text),
                ("/sys/fs/cgroup/cpuset.cpus.effective", "zero"),
            ]);
            assert_eq!(limits, Limits::default(), "{text}");
        }
    }

    #[test]
    fn escaped_mount_points_are_read() {
        let mounts = "1 1 0:1 / /a\\040b rw - cgroup2 none rw\n";
        let limits =
            limits_of(&[("/proc/self/cgroup", "0::/\n"), ("/proc/self/mountinfo", mounts), ("/a b/cpu.max", "1 1")]);
        assert_eq!(limits.quota.map(|quota| quota.cpus), Some(1.0));
    }
}
