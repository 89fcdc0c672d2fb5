// Landlock: what a process and its descendants may open, connect to and signal. Numbers and layouts are the kernel's, here
// because older headers lack them.
#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>

#include "sandbox/sandbox.h"

namespace pynanochat::sandbox {
namespace {

constexpr long CREATE_RULESET = 444, ADD_RULE = 445, RESTRICT_SELF = 446;
constexpr uint64_t EXECUTE = 1, WRITE_FILE = 2, READ_FILE = 4, READ_DIR = 8, TRUNCATE = 1 << 14;

struct Ruleset {
  uint64_t files, net, scopes;
};
struct __attribute__((packed)) PathRule {
  uint64_t allowed;
  int32_t fd;
};

// Every kind of access to files that a version knows.
uint64_t all_access(int version) {
  int bits = version >= 5 ? 16 : version >= 3 ? 15 : version == 2 ? 14 : 13;
  return (uint64_t{1} << bits) - 1;
}

void allow(int rules, const std::string& path, uint64_t access) {
  int fd = open(path.c_str(), O_PATH | O_CLOEXEC);
  if (fd < 0 && errno == ENOENT) return;
  check(fd, path.c_str());
  struct stat about;
  check(fstat(fd, &about), path.c_str());
  constexpr uint64_t OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | (1 << 15);
  PathRule rule{S_ISDIR(about.st_mode) ? access : access & OF_FILES, fd};
  check(static_cast<int>(syscall(ADD_RULE, rules, 1, &rule, 0)), "landlock_add_rule");
  close(fd);
}

}  // namespace

int landlock_version() {
  long version = syscall(CREATE_RULESET, nullptr, 0, 1);
  return version > 0 ? static_cast<int>(version) : 0;
}

void restrict_files(const std::vector<std::string>& readable, const std::string& writable) {
  int version = landlock_version();
  uint64_t all = all_access(version);
  Ruleset ruleset{all, version >= 4 ? 3u : 0u, version >= 6 ? 3u : 0u};  // TCP bind, connect; abstract sockets, signals
  size_t size = version >= 6 ? 24 : version >= 4 ? 16 : 8;
  int rules = static_cast<int>(syscall(CREATE_RULESET, &ruleset, size, 0));
  check(rules, "landlock_create_ruleset");
  for (const auto& path : readable) allow(rules, path, EXECUTE | READ_FILE | READ_DIR);
  for (const char* device : {"/dev/zero", "/dev/urandom"}) allow(rules, device, READ_FILE);
  allow(rules, "/dev/null", READ_FILE | WRITE_FILE | (all & TRUNCATE));
  allow(rules, writable, all & ~EXECUTE);
  check(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs");
  check(static_cast<int>(syscall(RESTRICT_SELF, rules, 0)), "landlock_restrict_self");
  close(rules);
}

}  // namespace pynanochat::sandbox
