// A file system of its own for the sandbox: an empty read-only root into which the interpreter and the system's libraries are
// bound, and a small writable /tmp that lives in memory and goes with the sandbox. No /proc, no /home, no network device.
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

#include "sandbox/sandbox.h"

namespace pynanochat::sandbox {
namespace {

// Not in every libc's headers; the numbers are the same on every architecture.
constexpr long OPEN_TREE = 428, MOVE_MOUNT = 429, MOUNT_SETATTR = 442;
constexpr unsigned TREE_CLONE = 1, TREE_CLOEXEC = O_CLOEXEC, MOVE_EMPTY_PATH = 4, RECURSIVE = 0x8000, EMPTY_PATH = 0x1000;
struct MountAttributes {
  unsigned long long set, clear, propagation, userns_fd;
};
constexpr unsigned long long READ_ONLY = 1, NO_SUID = 2, NO_DEV = 4;

constexpr uid_t INSIDE = 1000, NOBODY = 65534;
constexpr const char* DEVICES[] = {"/dev/null", "/dev/zero", "/dev/urandom"};
constexpr const char* TMP_OPTIONS = "mode=0777,size=32m,nr_inodes=2048";

struct Source {
  std::string path, link;
  int tree = -1;
  bool folder = false, device = false;
};

void write_file(const std::string& path, const std::string& text) {
  int fd = check(open(path.c_str(), O_WRONLY | O_CLOEXEC), path.c_str());
  ssize_t wrote = write(fd, text.data(), text.size());
  close(fd);
  if (wrote != static_cast<ssize_t>(text.size())) fail(path);
}

// Folders on the way to `path` (which begins with a slash), below the current one.
void make_parents(const std::string& path) {
  for (size_t slash = path.find('/', 1); slash != std::string::npos; slash = path.find('/', slash + 1)) {
    if (mkdir(path.substr(1, slash - 1).c_str(), 0755) < 0 && errno != EEXIST) fail("mkdir " + path);
  }
}

// Takes hold of what stands at `path`, before the old root is out of sight and the user is another. False where there is nothing.
bool take(const std::string& path, bool device, std::vector<Source>& sources) {
  struct stat about;
  if (lstat(path.c_str(), &about) < 0) return false;
  Source source{path, "", -1, S_ISDIR(about.st_mode), device};
  if (S_ISLNK(about.st_mode)) {
    char target[4096];
    ssize_t size = readlink(path.c_str(), target, sizeof target);
    check(static_cast<int>(size), path.c_str());
    source.link.assign(target, static_cast<size_t>(size));
  } else {
    unsigned flags = TREE_CLONE | TREE_CLOEXEC | RECURSIVE;
    source.tree = static_cast<int>(syscall(OPEN_TREE, AT_FDCWD, path.c_str(), flags));
    check(source.tree, "open_tree");
    MountAttributes attributes{READ_ONLY | NO_SUID | (device ? 0 : NO_DEV), 0, 0, 0};
    check(static_cast<int>(syscall(MOUNT_SETATTR, source.tree, "", EMPTY_PATH | RECURSIVE, &attributes, sizeof attributes)),
          "mount_setattr");
  }
  sources.push_back(source);
  return true;
}

void place(const Source& source) {
  make_parents(source.path);
  const char* path = source.path.c_str() + 1;
  if (!source.link.empty()) {
    if (symlink(source.link.c_str(), path) < 0 && errno != EEXIST) fail("symlink " + source.path);
    return;
  }
  if (source.folder) {
    if (mkdir(path, 0755) < 0 && errno != EEXIST) fail("mkdir " + source.path);
  } else {
    close(check(open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0644), path));
  }
  check(static_cast<int>(syscall(MOVE_MOUNT, source.tree, "", AT_FDCWD, path, MOVE_EMPTY_PATH)), "move_mount");
  close(source.tree);
}

}  // namespace

pid_t clone_into_namespaces() {
  unsigned long flags = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | SIGCHLD;
#ifdef __s390x__
  return static_cast<pid_t>(syscall(SYS_clone, nullptr, flags, nullptr, nullptr, nullptr));
#else
  return static_cast<pid_t>(syscall(SYS_clone, flags, nullptr, nullptr, nullptr, nullptr));
#endif
}

void map_user(pid_t child) {
  // root's processes are not counted by RLIMIT_NPROC, so that root is mapped to nobody
  bool root = geteuid() == 0;
  std::string proc = "/proc/" + std::to_string(child) + "/", inside = std::to_string(INSIDE) + " ";
  if (!root) write_file(proc + "setgroups", "deny");
  write_file(proc + "uid_map", inside + std::to_string(root ? NOBODY : geteuid()) + " 1");
  write_file(proc + "gid_map", inside + std::to_string(root ? NOBODY : getegid()) + " 1");
}

void build_root(const Job& job) {
  std::vector<Source> sources;
  for (const auto& path : job.readable) take(path, false, sources);
  for (const char* path : DEVICES) take(path, true, sources);
  check(mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr), "making mounts private");
  if (setgroups(0, nullptr) < 0 && errno != EPERM) fail("setgroups");
  check(setresgid(INSIDE, INSIDE, INSIDE), "setresgid");
  check(setresuid(INSIDE, INSIDE, INSIDE), "setresuid");

  check(mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755,size=1m"), "mounting a root");
  check(chdir("/tmp"), "chdir");
  for (const auto& source : sources) place(source);
  if (mkdir("tmp", 0777) < 0 && errno != EEXIST) fail("mkdir /tmp");
  check(mount("tmpfs", "tmp", "tmpfs", MS_NOSUID | MS_NODEV, TMP_OPTIONS), "mounting /tmp");
  check(static_cast<int>(syscall(SYS_pivot_root, ".", ".")), "pivot_root");
  check(umount2(".", MNT_DETACH), "leaving the old root");
  check(chdir("/"), "chdir");
  check(mount(nullptr, "/", nullptr, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV, nullptr), "sealing the root");
  check(sethostname("sandbox", 7), "sethostname");
}

void drop_privileges() {
  for (int capability = 0; prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) == 0; ++capability) {
  }
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct none[2] = {};
  check(static_cast<int>(syscall(SYS_capset, &header, none)), "capset");
  check(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs");
}

}  // namespace pynanochat::sandbox
