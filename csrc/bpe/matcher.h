// Cuts one piece into tokens from left to right.
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "bpe/token_trie.h"
#include "bpe/vocabulary.h"

namespace pynanochat::bpe {

// For regular vocabularies. There, merging a piece's bytes ends in the only sequence of tokens in which every two
// neighbours would stay apart if merged alone. It is found by taking the longest token at each place, a shorter one
// where the neighbours would not stay apart, and going back where none is left; no place is gone through twice, so
// that the time is linear in the piece. Holds the working memory. Not for two threads at a time.
class Matcher {
  public:
    Matcher(const Vocabulary& vocabulary, const TokenTrie& trie) : vocabulary_(vocabulary), trie_(trie) {}

    // Whether this costs little with a vocabulary: it is regular, and few tokens begin each other or contain long chains
    // of others. No vocabulary learnt from text is otherwise; but one of a, aa, aaa and so on to 1,000 is.
    static bool suits(const Vocabulary& vocabulary, const TokenTrie& trie);

    // The tokens of `piece`, which is not empty. Valid until the next call.
    std::span<const Id> match(std::string_view piece);

    // Gives back the memory that a very long piece has taken.
    void trim();

  private:
    bool stay_apart(Id left, Id right) const;

    const Vocabulary& vocabulary_;
    const TokenTrie& trie_;
    std::vector<Id> ids_;
    std::vector<bool> closed_;  // places from which no way leads to the end
};

}  // namespace pynanochat::bpe
