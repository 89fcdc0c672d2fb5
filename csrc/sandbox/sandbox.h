// The pieces of the sandbox's helper, a small Linux program that starts the two interpreters of tools/sandbox.py, cut off
// from everything, and leaves none of their processes behind. main.cpp says how it is called.
#pragma once

#include <sys/resource.h>
#include <sys/types.h>

#include <string>
#include <system_error>
#include <vector>

namespace pynanochat::sandbox {

// The system's last error, with what was being done.
[[noreturn]] void fail(const std::string& what);

inline int check(int result, const char* what) {
  if (result < 0) fail(what);
  return result;
}

struct Features {
  bool namespaces = false, landlock = false, seccomp = false;
  static Features parse(const std::string& tier);
  std::string name() const;  // "namespaces+landlock+seccomp", "rlimits only"
};

struct Limits {
  double seconds = 5;
  rlim_t memory = 0, processes = 0, file = 0;
  size_t output = 0;
};

struct Job {
  Features features;
  Limits limits;
  std::string folder;                // the writable folder, where there are no namespaces to make one
  std::vector<std::string> readable;  // what may be read: the interpreter and the system's libraries
  std::vector<std::string> command;   // the interpreter, without the role
};

// namespaces.cpp
pid_t clone_into_namespaces();           // as fork, with user, mount, pid, net, ipc and uts namespaces of its own
void map_user(pid_t child);              // by the parent: lets the child be an ordinary user
void build_root(const Job& job);         // by the child: only `readable` and an empty /tmp are left of the file system
void drop_privileges();                  // no capability, and no way to gain one

// landlock.cpp
int landlock_version();                  // 0 where there is none
void restrict_files(const std::vector<std::string>& readable, const std::string& writable);

// seccomp.cpp
struct CallRules {
  bool only_own_process = false;  // signals to itself alone: where no pid namespace hides the others
  bool no_forks = false;          // threads alone: where RLIMIT_NPROC does not count
};
bool has_seccomp();
void restrict_calls(const CallRules& rules);

// supervise.cpp
Features probe(const Job& job);
int supervise(const Job& job, const std::string& program, const std::string& tests);

}  // namespace pynanochat::sandbox
