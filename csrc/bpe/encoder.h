// Text to token ids.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <span>
#include <string_view>
#include <vector>

#include "bpe/growing_buffer.h"
#include "bpe/matcher.h"
#include "bpe/merge.h"
#include "bpe/piece_cache.h"
#include "bpe/splitter.h"
#include "bpe/threads.h"
#include "bpe/token_trie.h"
#include "bpe/vocabulary.h"

namespace pynanochat::bpe {

using IdBuffer = GrowingBuffer<Id>;

// Safe to use from several threads at once; each call borrows a workspace (caches of pieces and scratch memory,
// up to 28 MiB) and gives it back, so there are as many workspaces as there ever were calls at one time.
class Encoder {
  public:
    explicit Encoder(const std::vector<std::string_view>& tokens, Pattern pattern = Pattern::ours)
        : vocabulary_(tokens), trie_(vocabulary_), matches_(Matcher::suits(vocabulary_, trie_)), pattern_(pattern) {}

    const Vocabulary& vocabulary() const { return vocabulary_; }

    // Appends the ids of `text`, valid UTF-8, all of it ordinary text.
    void encode(std::string_view text, IdBuffer& out) const;

    // Calls done(i, ids) for every text, from `threads` threads, in no particular order.
    template <class Done>
    void encode_batch(std::span<const std::string_view> texts, unsigned threads, Done done) const;

  private:
    struct Workspace {
        explicit Workspace(const Encoder& encoder);
        ShortCache short_pieces;
        LongCache long_pieces;
        Matcher matcher;
        Merger merger;
    };
    class Lease {
      public:
        Lease(const Encoder& encoder, std::unique_ptr<Workspace> workspace)
            : encoder_(encoder), workspace_(std::move(workspace)) {}
        Lease(Lease&&) = default;
        ~Lease();
        Workspace& workspace() const { return *workspace_; }

      private:
        const Encoder& encoder_;
        std::unique_ptr<Workspace> workspace_;
    };
    Lease borrow() const;
    void encode(std::string_view text, IdBuffer& out, Workspace& workspace) const;
    std::size_t encode_rare(std::string_view piece, const PieceKey& key, Id* out, Workspace& workspace) const;
    std::size_t merge(std::string_view piece, std::uint64_t hash, Id* out, Workspace& workspace) const;

    Vocabulary vocabulary_;
    TokenTrie trie_;
    bool matches_;  // new pieces go through the matcher, else through the merger
    Pattern pattern_;
    mutable std::mutex mutex_;
    mutable std::vector<std::unique_ptr<Workspace>> idle_;
};

template <class Done>
void Encoder::encode_batch(std::span<const std::string_view> texts, unsigned threads, Done done) const {
    run_threads(threads, texts.size(), [&](std::atomic<std::size_t>& next) {
        const Lease lease = borrow();
        IdBuffer ids;
        for (std::size_t i; (i = next.fetch_add(1)) < texts.size();) {
            ids.clear();
            encode(texts[i], ids, lease.workspace());
            done(i, std::span<const Id>(ids.data(), ids.size()));
        }
    });
}

}  // namespace pynanochat::bpe
