// Python bindings of csrc/data.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include "bindings/view.h"
#include "data/packer.h"

namespace pynanochat {

namespace {

using data::Packer;
using Tokens = py::array_t<Packer::Token, py::array::c_style | py::array::forcecast>;

// `first` and each of `documents` (uint32 or int32 arrays) as documents.
void add(Packer& packer, Packer::Token first, const py::iterable& documents) {
    using Ids = py::array_t<std::uint32_t, py::array::c_style>;
    for (const py::handle document : documents) {
        if (py::isinstance<Ids>(document)) {
            const auto ids = py::reinterpret_borrow<Ids>(document);
            packer.add(first, {reinterpret_cast<const Packer::Token*>(ids.data()), static_cast<std::size_t>(ids.size())});
        } else {
            const Tokens tokens(py::reinterpret_borrow<py::object>(document));
            packer.add(first, {tokens.data(), static_cast<std::size_t>(tokens.size())});
        }
    }
}

// Fills the (rows, row_size) array from the flat place `at` on; see Packer::fill.
std::size_t fill(Packer& packer, py::array_t<Packer::Token, py::array::c_style>& rows, std::size_t at,
                 std::size_t least) {
    if (rows.ndim() != 2 || static_cast<std::size_t>(rows.shape(1)) != packer.row_size())
        throw ShapeError("rows must be int32 (rows, " + std::to_string(packer.row_size()) + ")");
    const std::span<Packer::Token> all(rows.mutable_data(), static_cast<std::size_t>(rows.size()));
    const py::gil_scoped_release release;
    return packer.fill(all, at, least);
}

// The documents of a buffer at one time; they are shared with the buffer until they are asked for.
struct Snapshot {
    std::vector<Packer::Document> documents;

    // How long each is, int64, and the tokens of all, int32.
    py::tuple arrays() const {
        std::size_t total = 0;
        for (const Packer::Document& document : documents) total += document->size();
        py::array_t<std::int64_t> lengths(static_cast<py::ssize_t>(documents.size()));
        py::array_t<Packer::Token> tokens(static_cast<py::ssize_t>(total));
        std::int64_t* length = lengths.mutable_data();
        Packer::Token* at = tokens.mutable_data();
        for (const Packer::Document& document : documents) {
            *length++ = static_cast<std::int64_t>(document->size());
            at = std::copy(document->begin(), document->end(), at);
        }
        return py::make_tuple(lengths, tokens);
    }
};

}  // namespace

void bind_data(py::module_& module) {
    py::class_<Snapshot>(module, "PackerSnapshot").def("arrays", &Snapshot::arrays);
    py::class_<Packer>(module, "Packer")
        .def(py::init<std::size_t>(), py::arg("row_size"))
        .def("__len__", &Packer::size)
        .def_property_readonly("dropped", &Packer::dropped)
        .def("add", &add, py::arg("first"), py::arg("documents"))
        .def("fill", &fill, py::arg("rows"), py::arg("at"), py::arg("least"))
        .def("snapshot", [](const Packer& packer) { return Snapshot{packer.documents()}; });
}

}  // namespace pynanochat
