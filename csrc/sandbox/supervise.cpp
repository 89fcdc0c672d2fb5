// Starts the two interpreters, watches the clock, the output and the verdict, and ends every process.
//
// helper ─ init ─┬ program   (what the model wrote; its output goes to a pipe that only the helper reads)
//                └ judge     (the tests; the only one that holds the verdict's pipe)
//
// With namespaces init is process 1 of its own, so that its end is the end of all. Without, the helper is made the reaper of
// every orphan below it, and kills children until it has none.
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>

#include "sandbox/sandbox.h"

namespace pynanochat::sandbox {
namespace {

constexpr int HIGH = 100;  // descriptors are kept up here, clear of the numbers that the interpreters get
constexpr size_t LONGEST_VERDICT = 1 << 12;
constexpr int SETUP_FAILED = 3;

struct Pipe {
  int out = -1, in = -1;  // read from, write to
};

struct Ends {
  Pipe requests, answers, verdict, output, events, go;
  int program = -1, tests = -1, null = -1;
};

// How the two ended, as init tells the helper; -1 where one had not.
struct Endings {
  int program = -1, judge = -1;
};

int lift(int fd) {
  int high = check(fcntl(fd, F_DUPFD_CLOEXEC, HIGH), "fcntl");
  close(fd);
  return high;
}

Pipe make_pipe() {
  int ends[2];
  check(pipe2(ends, O_CLOEXEC), "pipe");
  return {lift(ends[0]), lift(ends[1])};
}

int make_file(const std::string& text) {
  int fd = check(static_cast<int>(syscall(SYS_memfd_create, "sandbox", 1u)), "memfd_create");
  for (size_t at = 0; at < text.size();) {
    ssize_t wrote = write(fd, text.data() + at, text.size() - at);
    if (wrote < 0 && errno != EINTR) fail("memfd");
    if (wrote > 0) at += static_cast<size_t>(wrote);
  }
  check(static_cast<int>(lseek(fd, 0, SEEK_SET)), "lseek");
  return lift(fd);
}

void drop(int& fd) {
  if (fd >= 0) close(fd);
  fd = -1;
}

void limit(int kind, rlim_t value) {
  rlimit most;
  check(getrlimit(static_cast<__rlimit_resource>(kind), &most), "getrlimit");
  value = std::min(value, most.rlim_max);
  rlimit both{value, value};
  check(setrlimit(static_cast<__rlimit_resource>(kind), &both), "setrlimit");
}

void set_limits(const Limits& limits) {
  limit(RLIMIT_AS, limits.memory);
  limit(RLIMIT_CPU, static_cast<rlim_t>(std::ceil(limits.seconds)) + 1);
  limit(RLIMIT_FSIZE, limits.file);
  limit(RLIMIT_NPROC, limits.processes + 2);  // init and the judge are of the same user
  limit(RLIMIT_NOFILE, 64);
  limit(RLIMIT_CORE, 0);
  limit(RLIMIT_MEMLOCK, 0);
  limit(RLIMIT_MSGQUEUE, 0);
}

// Becomes the interpreter of `role`, with `fds` as 3, 4 ... and nothing else open.
[[noreturn]] void become(const Job& job, const char* role, const std::vector<int>& fds, int null, int written) {
  check(dup2(null, 0), "dup2");
  check(dup2(written, 1), "dup2");
  check(dup2(written, 2), "dup2");
  std::vector<std::string> words = job.command;
  words.emplace_back(role);
  for (size_t i = 0; i < fds.size(); ++i) {
    check(dup2(fds[i], 3 + static_cast<int>(i)), "dup2");
    words.push_back(std::to_string(3 + i));
  }
  for (int fd = 3 + static_cast<int>(fds.size()); fd < HIGH; ++fd) close(fd);  // those from HIGH on close themselves
  sigset_t none;
  sigemptyset(&none);
  check(sigprocmask(SIG_SETMASK, &none, nullptr), "sigprocmask");
  check(prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0), "prctl");
  std::string folder = job.features.namespaces ? "/tmp" : job.folder;
  check(chdir(folder.c_str()), folder.c_str());
  set_limits(job.limits);
  if (job.features.landlock) restrict_files(job.readable, folder);
  if (job.features.seccomp) restrict_calls({!job.features.namespaces, !job.features.namespaces && geteuid() == 0});
  std::string home = "HOME=" + folder, tmp = "TMPDIR=" + folder;
  char path[] = "PATH=/usr/bin:/bin";
  char* environment[] = {path, home.data(), tmp.data(), nullptr};
  std::vector<char*> argv;
  for (auto& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  execve(argv[0], argv.data(), environment);
  fail(argv[0]);
}

template <typename Body>
pid_t fork_into(int errors, Body body) {
  pid_t child = check(fork(), "fork");
  if (child > 0) return child;
  try {
    body();
  } catch (const std::exception& error) {
    dprintf(errors, "%s", error.what());
  }
  _exit(SETUP_FAILED);
}

// Init: starts both, and ends as soon as either has. Its own end takes what is left with it.
void serve(const Job& job, Ends& ends, int errors) {
  check(setsid(), "setsid");
  if (job.features.namespaces) build_root(job);
  drop_privileges();
  check(prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0), "prctl");
  pid_t judge = fork_into(errors, [&] {
    become(job, "judge", {ends.tests, ends.answers.out, ends.requests.in, ends.verdict.in}, ends.null, ends.null);
  });
  drop(ends.verdict.in);
  drop(ends.tests);
  pid_t program = fork_into(errors, [&] {
    become(job, "program", {ends.program, ends.requests.out, ends.answers.in}, ends.null, ends.output.in);
  });
  for (int* fd : {&ends.requests.out, &ends.requests.in, &ends.answers.out, &ends.answers.in, &ends.output.in}) drop(*fd);
  Endings endings;
  while (endings.judge < 0 && endings.program < 0) {
    int status = 0;
    pid_t ended = waitpid(-1, &status, 0);
    if (ended < 0 && errno != EINTR) fail("waitpid");
    // an honest program outlives the judge, whose verdict is in the pipe by then
    if (ended == judge || ended == program) (ended == judge ? endings.judge : endings.program) = status;
  }
  int status = 0;
  if (endings.program < 0 && waitpid(program, &status, WNOHANG) == program) endings.program = status;
  if (write(ends.events.in, &endings, sizeof endings) != sizeof endings) fail("events");
}

// The processes whose parent is this one.
std::vector<pid_t> children() {
  std::vector<pid_t> found;
  DIR* proc = opendir("/proc");
  if (!proc) return found;
  while (dirent* entry = readdir(proc)) {
    pid_t pid = static_cast<pid_t>(std::strtol(entry->d_name, nullptr, 10));
    if (pid <= 0) continue;
    std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
    std::string stat;
    std::getline(file, stat, '\0');  // nothing, where the process has ended since
    size_t name = stat.rfind(')');  // the name may hold anything
    char state;
    int parent = 0;
    if (name != std::string::npos && std::sscanf(stat.c_str() + name + 1, " %c %d", &state, &parent) == 2 && parent == getpid()) {
      found.push_back(pid);
    }
  }
  closedir(proc);
  return found;
}

void end_all(pid_t init) {
  kill(init, SIGKILL);
  while (waitpid(init, nullptr, 0) < 0 && errno == EINTR) {
  }
  while (true) {
    for (pid_t child : children()) kill(child, SIGKILL);
    pid_t ended = waitpid(-1, nullptr, WNOHANG);
    if (ended < 0 && errno == ECHILD) return;
    if (ended == 0) usleep(1000);
  }
}

// Appends what is there to `text`, at most `most` bytes of it kept: how much there was, 0 at the end, -1 for nothing yet.
ssize_t drain(int fd, std::string& text, size_t most) {
  char part[1 << 16];
  ssize_t got = read(fd, part, sizeof part);
  if (got > 0 && text.size() < most) text.append(part, std::min(static_cast<size_t>(got), most - text.size()));
  return got;
}

struct Watched {
  std::string verdict, output, errors, events, stopped;
};

// Reads everything until init has said how it ended, or a limit is passed.
Watched watch(const Job& job, const Ends& ends, int errors, int signals) {
  using Clock = std::chrono::steady_clock;
  auto deadline = Clock::now() + std::chrono::duration<double>(job.limits.seconds);
  Watched seen;
  pollfd fds[] = {{ends.verdict.out, POLLIN, 0}, {ends.output.out, POLLIN, 0}, {errors, POLLIN, 0},
                  {ends.events.out, POLLIN, 0}, {signals, POLLIN, 0}};
  std::string* texts[] = {&seen.verdict, &seen.output, &seen.errors, &seen.events};
  while (seen.stopped.empty()) {
    double left = std::chrono::duration<double, std::milli>(deadline - Clock::now()).count();
    char words[80];
    if (left <= 0) {
      std::snprintf(words, sizeof words, "took longer than %g s", job.limits.seconds);
      seen.stopped = words;
      break;
    }
    if (poll(fds, 5, static_cast<int>(std::ceil(left))) < 0 && errno != EINTR) fail("poll");
    for (int i = 0; i < 4; ++i) {
      size_t most = i == 1 ? job.limits.output + 1 : LONGEST_VERDICT;
      if (fds[i].revents && drain(fds[i].fd, *texts[i], most) == 0) fds[i].fd = -1;
    }
    if (fds[4].revents) seen.stopped = "interrupted";
    if (seen.output.size() > job.limits.output) {
      seen.stopped = "wrote more than " + std::to_string(job.limits.output) + " bytes";
    }
    if (fds[3].fd < 0) break;
  }
  return seen;
}

std::string describe(const std::string& events) {
  Endings endings;
  if (events.size() != sizeof endings) return "";
  std::memcpy(&endings, events.data(), sizeof endings);
  int status = endings.program;
  if (status < 0) return "";
  return WIFSIGNALED(status) ? "signal " + std::to_string(WTERMSIG(status)) : "exit " + std::to_string(WEXITSTATUS(status));
}

void write_all(const std::string& text) {
  for (size_t at = 0; at < text.size();) {
    ssize_t wrote = write(STDOUT_FILENO, text.data() + at, text.size() - at);
    if (wrote < 0 && errno != EINTR) fail("writing the result");
    if (wrote > 0) at += static_cast<size_t>(wrote);
  }
}

// A process in its own namespaces where the job wants them, that runs `body` and ends.
template <typename Body>
pid_t start(const Job& job, Pipe& go, int errors, Body body) {
  pid_t init = check(job.features.namespaces ? clone_into_namespaces() : fork(), "clone");
  if (init == 0) {
    try {
      drop(go.in);
      char byte;
      if (read(go.out, &byte, 1) != 1) _exit(SETUP_FAILED);  // the user is not mapped before
      body();
      _exit(0);
    } catch (const std::exception& error) {
      dprintf(errors, "%s", error.what());
    }
    _exit(SETUP_FAILED);
  }
  drop(go.out);
  try {
    if (job.features.namespaces) map_user(init);
    if (write(go.in, "g", 1) != 1) fail("starting init");
  } catch (...) {
    kill(init, SIGKILL);
    waitpid(init, nullptr, 0);
    throw;
  }
  drop(go.in);
  return init;
}

bool can_have_namespaces(Job job) {
  job.features = {true, false, false};
  Pipe errors = make_pipe(), go = make_pipe();
  int status = -1;
  try {
    pid_t init = start(job, go, errors.in, [&] {
      build_root(job);
      drop_privileges();
    });
    while (waitpid(init, &status, 0) < 0 && errno == EINTR) {
    }
  } catch (const std::system_error&) {
  }
  for (int* fd : {&errors.out, &errors.in, &go.out, &go.in}) drop(*fd);
  return status == 0;
}

}  // namespace

Features probe(const Job& job) { return {can_have_namespaces(job), landlock_version() > 0, has_seccomp()}; }

int supervise(const Job& job, const std::string& program, const std::string& tests) {
  check(prctl(PR_SET_PDEATHSIG, SIGTERM, 0, 0, 0), "prctl");
  check(prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl");
  sigset_t stops;
  sigemptyset(&stops);
  for (int number : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&stops, number);
  check(sigprocmask(SIG_BLOCK, &stops, nullptr), "sigprocmask");
  int signals = check(signalfd(-1, &stops, SFD_CLOEXEC), "signalfd");

  Pipe errors = make_pipe();
  Ends ends{make_pipe(), make_pipe(), make_pipe(), make_pipe(), make_pipe(), make_pipe(), make_file(program), make_file(tests),
            lift(check(open("/dev/null", O_RDWR | O_CLOEXEC), "/dev/null"))};
  pid_t init = start(job, ends.go, errors.in, [&] {
    for (int* fd : {&errors.out, &ends.verdict.out, &ends.output.out, &ends.events.out}) drop(*fd);
    serve(job, ends, errors.in);
  });
  for (int* fd : {&ends.requests.out, &ends.requests.in, &ends.answers.out, &ends.answers.in, &ends.verdict.in, &ends.output.in,
                  &ends.events.in, &ends.program, &ends.tests, &errors.in}) {
    drop(*fd);
  }
  for (int fd : {ends.verdict.out, ends.output.out, ends.events.out, errors.out}) {
    check(fcntl(fd, F_SETFL, O_NONBLOCK), "fcntl");
  }
  Watched seen = watch(job, ends, errors.out, signals);
  end_all(init);
  drain(ends.verdict.out, seen.verdict, LONGEST_VERDICT);
  drain(errors.out, seen.errors, LONGEST_VERDICT);
  while (seen.output.size() <= job.limits.output && drain(ends.output.out, seen.output, job.limits.output + 1) > 0) {
  }
  if (!seen.errors.empty()) throw std::runtime_error(seen.errors);
  write_all(seen.stopped + "\n" + describe(seen.events) + "\n" + std::to_string(seen.verdict.size()) + " " +
            std::to_string(seen.output.size()) + "\n" + seen.verdict + seen.output);
  return 0;
}

}  // namespace pynanochat::sandbox
