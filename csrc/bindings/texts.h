// The UTF-8 of Python's text: of a str, of an iterable of str, or of a column of strings in Arrow's memory, which any
// Arrow library hands over through the Arrow C data interface. Nothing is copied where the memory is UTF-8 already.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <span>
#include <string_view>
#include <vector>

namespace pynanochat {

namespace py = pybind11;

// Keeps alive what it views. A str with lone surrogates has no UTF-8: as in tiktoken, pairs of surrogates are joined and
// lone ones read as U+FFFD. Throws py::type_error for anything else than text, and py::value_error for a null in a column
// or a string that is not UTF-8, which name its number.
class Texts {
  public:
    explicit Texts(const py::str& text);
    explicit Texts(const py::object& texts);
    ~Texts();

    std::span<const std::string_view> views() const { return views_; }

  private:
    struct Column;
    void add(py::handle text);
    void add_column(std::unique_ptr<Column> column);

    std::vector<py::object> kept_;
    std::vector<std::unique_ptr<Column>> columns_;
    std::vector<std::string_view> views_;
};

}  // namespace pynanochat
