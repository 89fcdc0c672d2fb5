// Packs tokenized documents into rows: best fit, cropped only to fill, no padding.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <vector>

namespace pynanochat::data {

// A buffer of documents, of which a row takes the longest that still fits, the first to arrive among equals. Where none
// fits it takes the shortest, the last to arrive among equals, whose end is dropped.
class Packer {
  public:
    using Token = std::int32_t;
    using Document = std::shared_ptr<const std::vector<Token>>;

    // Rows have `row_size` tokens, at least 1.
    explicit Packer(std::size_t row_size) : row_size_(row_size), by_size_(row_size + 1), used_(row_size / 64 + 1) {}

    // Adds `first` and `rest` as one document; what goes beyond a row is dropped.
    void add(Token first, std::span<const Token> rest);

    // Fills `rows`, whole rows one after another, from place `at` on, as long as at least `least` documents (at least 1)
    // are there, and returns the place of the first token not filled.
    std::size_t fill(std::span<Token> rows, std::size_t at, std::size_t least);

    std::size_t row_size() const { return row_size_; }
    std::size_t size() const { return size_; }          // documents
    std::uint64_t dropped() const { return dropped_; }  // tokens so far
    std::vector<Document> documents() const;            // in the order of their arrival; shared, not copied

  private:
    struct Entry {
        std::uint64_t arrival;
        Document document;
    };
    Document take(std::size_t room);

    std::size_t row_size_;
    std::vector<std::deque<Entry>> by_size_;  // by their size, in the order of arrival
    std::vector<std::uint64_t> used_;         // a bit for each size of which there are any
    std::size_t size_ = 0;
    std::uint64_t arrivals_ = 0, dropped_ = 0;
};

}  // namespace pynanochat::data
