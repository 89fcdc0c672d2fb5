// Python bindings of csrc/bpe. Text comes in as str, whose UTF-8 is read in place; ids go out as numpy uint32.
#include <pybind11/functional.h>
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <map>
#include <memory>
#include <string>

#include "bindings/view.h"
#include "bpe/decoder.h"
#include "bpe/encoder.h"
#include "bpe/splitter.h"
#include "bpe/trainer.h"

namespace pynanochat {

namespace {

using bpe::Id;

// The UTF-8 of str objects, which it keeps alive. A str with lone surrogates has no UTF-8: as in tiktoken, pairs of
// surrogates are joined and lone ones read as U+FFFD.
class Texts {
  public:
    explicit Texts(const py::iterable& texts) {
        for (py::handle text : texts) add(text);
    }
    explicit Texts(const py::str& text) { add(text); }

    std::span<const std::string_view> views() const { return views_; }

  private:
    void add(py::handle text) {
        if (!PyUnicode_Check(text.ptr()))
            throw py::type_error("a text is of type " + std::string(py::str(py::type::of(text))) + "; it must be str");
        py::object kept = py::reinterpret_borrow<py::object>(text);
        Py_ssize_t size = 0;
        const char* data = PyUnicode_AsUTF8AndSize(kept.ptr(), &size);
        if (!data) {
            PyErr_Clear();
            kept = kept.attr("encode")("utf-16", "surrogatepass").attr("decode")("utf-16", "replace");
            data = PyUnicode_AsUTF8AndSize(kept.ptr(), &size);
            if (!data) throw py::error_already_set();
        }
        kept_.push_back(std::move(kept));
        views_.emplace_back(data, static_cast<std::size_t>(size));
    }

    std::vector<py::object> kept_;
    std::vector<std::string_view> views_;
};

py::array_t<Id> to_array(std::span<const Id> ids) {
    return py::array_t<Id>(static_cast<py::ssize_t>(ids.size()), ids.data());
}

bpe::Pattern pattern_named(const std::string& name) {
    for (std::size_t i = 0; i < std::size(bpe::pattern_table); ++i)
        if (name == bpe::pattern_table[i].name) return static_cast<bpe::Pattern>(i);
    throw py::value_error("there is no pattern named " + name);
}

class PyEncoder {
  public:
    PyEncoder(const std::vector<py::bytes>& tokens, const std::map<Id, std::string>& special,
              const std::string& pattern) {
        const bpe::Pattern splitting = pattern_named(pattern);
        std::vector<std::string_view> views;
        for (const py::bytes& token : tokens) views.push_back(token);
        numbers_.resize(views.size());
        const py::gil_scoped_release release;
        decoder_ = std::make_unique<bpe::Decoder>(views, special);
        encoder_ = std::make_unique<bpe::Encoder>(views, splitting);
    }

    py::list encode(const py::str& text) {
        const bpe::IdBuffer ids = run(text);
        py::list result(ids.size());
        for (std::size_t i = 0; i < ids.size(); ++i)
            PyList_SET_ITEM(result.ptr(), static_cast<py::ssize_t>(i), number(ids.data()[i]).inc_ref().ptr());
        return result;
    }

    py::array_t<Id> encode_array(const py::str& text) const {
        const bpe::IdBuffer ids = run(text);
        return to_array({ids.data(), ids.size()});
    }

    py::list encode_batch(const py::iterable& iterable, unsigned threads) const {
        const Texts texts(iterable);
        std::vector<std::vector<Id>> all(texts.views().size());
        {
            const py::gil_scoped_release release;
            const auto keep = [&](std::size_t i, std::span<const Id> ids) { all[i].assign(ids.begin(), ids.end()); };
            encoder_->encode_batch(texts.views(), threads, keep);
        }
        py::list result(all.size());
        for (std::size_t i = 0; i < all.size(); ++i) {
            result[i] = to_array(all[i]);
            all[i] = {};
        }
        return result;
    }

    py::bytes decode(const py::array_t<std::int64_t, py::array::c_style>& ids) const {
        return decoder_->decode({ids.data(), static_cast<std::size_t>(ids.size())});
    }

    // The two ids that merge into each id; None where there are none.
    py::list parts() const {
        py::list result;
        for (const auto& [left, right] : encoder_->vocabulary().parts()) {
            if (left == bpe::no_id)
                result.append(py::none());
            else
                result.append(py::make_tuple(left, right));
        }
        return result;
    }

    bool regular() const { return encoder_->vocabulary().regular(); }

  private:
    bpe::IdBuffer run(const py::str& text) const {
        const Texts texts(text);
        bpe::IdBuffer ids;
        const py::gil_scoped_release release;
        encoder_->encode(texts.views()[0], ids);
        return ids;
    }

    // Python's int for an id, made once: a list of ids then costs one reference count each.
    const py::object& number(Id id) {
        if (!numbers_[id]) numbers_[id] = py::int_(id);
        return numbers_[id];
    }

    std::unique_ptr<bpe::Decoder> decoder_;
    std::unique_ptr<bpe::Encoder> encoder_;
    std::vector<py::object> numbers_;
};

void add_texts(bpe::Trainer& trainer, const py::iterable& iterable, unsigned threads) {
    const Texts texts(iterable);
    const py::gil_scoped_release release;
    trainer.add(texts.views(), threads);
}

// `progress`, if any, is called with the number of merges learnt; Ctrl-C stops the training.
std::vector<std::pair<Id, Id>> train(bpe::Trainer& trainer, std::size_t merges, const py::object& progress) {
    const py::gil_scoped_release release;
    return trainer.train(merges, [&](std::size_t done) {
        const py::gil_scoped_acquire acquire;
        if (PyErr_CheckSignals() != 0) throw py::error_already_set();
        if (!progress.is_none()) progress(done);
    });
}

// The ends of the pieces of `text`, as byte offsets into its UTF-8. `method`: window, portable or scalar.
py::array_t<std::int64_t> split(const py::str& text, const std::string& method, const std::string& pattern) {
    const bpe::Pattern splitting = pattern_named(pattern);
    const Texts texts(text);
    const auto* const begin = reinterpret_cast<const bpe::Byte*>(texts.views()[0].data());
    const bpe::Byte* const end = begin + texts.views()[0].size();
    std::vector<std::int64_t> result;
    const bpe::Byte* block[256];
    for (const bpe::Byte* p = begin; p < end; p = begin + result.back()) {
        if (method == "scalar") {
            result.push_back(bpe::piece_end(p, end, splitting) - begin);
            continue;
        }
        const std::size_t n = method == "portable" ? bpe::split_portable(p, end, block, 256, splitting)
                                                   : bpe::split(p, end, block, 256, splitting);
        for (std::size_t i = 0; i < n; ++i) result.push_back(block[i] - begin);
    }
    return py::array_t<std::int64_t>(static_cast<py::ssize_t>(result.size()), result.data());
}

}  // namespace

void bind_bpe(py::module_& module) {
    py::dict patterns;
    for (const bpe::NamedPattern& pattern : bpe::pattern_table) patterns[pattern.name] = pattern.regex;
    module.attr("bpe_patterns") = patterns;
    const char* const ours = bpe::pattern_table[0].name;
    module.def("bpe_split", &split, py::arg("text"), py::arg("method") = "window", py::arg("pattern") = ours);

    py::class_<PyEncoder>(module, "BpeEncoder")
        .def(py::init<const std::vector<py::bytes>&, const std::map<Id, std::string>&, const std::string&>(),
             py::arg("tokens"), py::arg("special"), py::arg("pattern") = ours)
        .def("encode", &PyEncoder::encode, py::arg("text"))
        .def("encode_array", &PyEncoder::encode_array, py::arg("text"))
        .def("encode_batch", &PyEncoder::encode_batch, py::arg("texts"), py::arg("threads"))
        .def("decode", &PyEncoder::decode, py::arg("ids"))
        .def("parts", &PyEncoder::parts)
        .def_property_readonly("regular", &PyEncoder::regular);

    py::class_<bpe::Trainer>(module, "BpeTrainer")
        .def(py::init<>())
        .def("add", &add_texts, py::arg("texts"), py::arg("threads"))
        .def("train", &train, py::arg("merges"), py::arg("progress") = py::none());
}

}  // namespace pynanochat
