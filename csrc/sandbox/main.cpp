// The helper of tools/sandbox.py; started by it alone.
//
//   _sandbox probe READABLE... -- PYTHON...
//       prints the best tier to be had here
//   _sandbox run TIER SECONDS MEMORY PROCESSES FILE OUTPUT FOLDER SIZE READABLE... -- PYTHON...
//       runs the program (the first SIZE bytes of standard input) and the tests (the rest) under exactly that tier, and
//       prints three lines and two texts: why they were stopped, or nothing; how the program ended, or nothing; the sizes of
//       what follows: the verdict, the program's output
//
// Exit code 3 and one line on standard error where the sandbox itself could not be set up.
#include <sys/resource.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "sandbox/sandbox.h"

namespace pynanochat::sandbox {

void fail(const std::string& what) { throw std::system_error(errno, std::generic_category(), what); }

Features Features::parse(const std::string& tier) {
  auto has = [&](const char* name) { return tier.find(name) != std::string::npos; };
  return {has("namespaces"), has("landlock"), has("seccomp")};
}

std::string Features::name() const {
  std::string name;
  auto add = [&](bool present, const char* feature) {
    if (!present) return;
    if (!name.empty()) name += '+';
    name += feature;
  };
  add(namespaces, "namespaces");
  add(landlock, "landlock");
  add(seccomp, "seccomp");
  return name.empty() ? "rlimits only" : name;
}

namespace {

std::string read_input() {
  std::string text;
  char part[1 << 16];
  while (true) {
    ssize_t got = read(STDIN_FILENO, part, sizeof part);
    if (got < 0 && errno == EINTR) continue;
    check(static_cast<int>(got), "reading the job");
    if (got == 0) return text;
    text.append(part, static_cast<size_t>(got));
  }
}

int run(const std::vector<std::string>& words) {
  if (words.size() < 3) throw std::invalid_argument("run by pynanochat's sandbox, not by hand");
  Job job;
  size_t at = 2, size = 0;
  if (words[1] == "run") {
    if (words.size() < 12) throw std::invalid_argument("run: too few words");
    job.features = Features::parse(words[2]);
    job.limits.seconds = std::stod(words[3]);
    job.limits.memory = std::stoull(words[4]);
    job.limits.processes = std::stoull(words[5]);
    job.limits.file = std::stoull(words[6]);
    job.limits.output = std::stoull(words[7]);
    job.folder = words[8];
    size = std::stoull(words[9]);
    at = 10;
  } else if (words[1] != "probe") {
    throw std::invalid_argument("neither run nor probe");
  }
  bool command = false;
  for (; at < words.size(); ++at) {
    if (!command && words[at] == "--") {
      command = true;
    } else {
      (command ? job.command : job.readable).push_back(words[at]);
    }
  }
  if (words[1] == "probe") {
    std::puts(probe(job).name().c_str());
    return 0;
  }
  std::string input = read_input();
  if (size > input.size()) throw std::invalid_argument("the job was cut off");
  return supervise(job, input.substr(0, size), input.substr(size));
}

}  // namespace
}  // namespace pynanochat::sandbox

int main(int count, char** words) {
  try {
    return pynanochat::sandbox::run({words, words + count});
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 3;
  }
}
