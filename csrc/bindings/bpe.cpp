// Python bindings of csrc/bpe. Text comes in as Texts, read in place; ids go out as numpy uint32.
#include <pybind11/functional.h>
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <memory>
#include <string>

#include "bindings/texts.h"
#include "bindings/view.h"
#include "bpe/decoder.h"
#include "bpe/encoder.h"
#include "bpe/splitter.h"
#include "bpe/threads.h"
#include "bpe/trainer.h"

namespace pynanochat {

namespace {

using bpe::Id;

// An array of `size` values that owns them.
template <class T>
py::array_t<T> to_array(bpe::Memory<T> values, std::size_t size) {
    if (!values) values = bpe::allocate<T>(0);  // a capsule must hold something
    T* const data = values.get();
    const py::capsule owner(data, [](void* held) { bpe::Freed()(held); });
    static_cast<void>(values.release());
    return py::array_t<T>(static_cast<py::ssize_t>(size), data, owner);
}

bpe::Pattern pattern_named(const std::string& name) {
    for (std::size_t i = 0; i < std::size(bpe::pattern_table); ++i)
        if (name == bpe::pattern_table[i].name) return static_cast<bpe::Pattern>(i);
    throw py::value_error("there is no pattern named " + name);
}

// Calls use(ids) with what `ids` holds: uint32 or int32 as they lie in an array, anything else as int64.
template <class Use>
auto with_ids(const py::handle& ids, Use use) {
    const auto as = [&]<class Int>() {
        using Array = py::array_t<Int, py::array::c_style | py::array::forcecast>;
        const Array array(py::reinterpret_borrow<py::object>(ids));
        return use(std::span<const Int>(array.data(), static_cast<std::size_t>(array.size())));
    };
    if (py::isinstance<py::array_t<std::uint32_t>>(ids)) return as.template operator()<std::uint32_t>();
    if (py::isinstance<py::array_t<std::int32_t>>(ids)) return as.template operator()<std::int32_t>();
    return as.template operator()<std::int64_t>();
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
        bpe::IdBuffer ids = run(text);
        const std::size_t size = ids.size();
        return to_array(ids.release(), size);
    }

    // An array for each text, filled by the thread that encoded it.
    py::list encode_batch(const py::object& iterable, unsigned threads) const {
        const Texts texts(iterable);
        Encoded encoded = run(texts, threads);
        py::list result(encoded.size());
        for (std::size_t i = 0; i < encoded.size(); ++i)
            result[i] = to_array(std::move(encoded.ids[i]), encoded.sizes[i]);
        return result;
    }

    // The ids of all texts in one array, and where each text's begin in it, with the end of the last.
    py::tuple encode_flat(const py::object& iterable, unsigned threads) const {
        const Texts texts(iterable);
        const Encoded encoded = run(texts, threads);
        py::array_t<std::int64_t> offsets(static_cast<py::ssize_t>(encoded.size() + 1));
        std::int64_t* const offset = offsets.mutable_data();
        offset[0] = 0;
        for (std::size_t i = 0; i < encoded.size(); ++i)
            offset[i + 1] = offset[i] + static_cast<std::int64_t>(encoded.sizes[i]);
        py::array_t<Id> ids(static_cast<py::ssize_t>(offset[encoded.size()]));
        Id* const data = ids.mutable_data();
        {
            const py::gil_scoped_release release;
            bpe::run_threads(threads, encoded.size(), [&](std::atomic<std::size_t>& next) {
                for (std::size_t i; (i = next.fetch_add(1)) < encoded.size();)
                    std::copy_n(encoded.ids[i].get(), encoded.sizes[i], data + offset[i]);
            });
        }
        return py::make_tuple(ids, offsets);
    }

    py::bytes decode(const py::object& ids) const {
        return with_ids(ids, [this](auto span) {
            const std::size_t size = decoder_->size(span);
            PyObject* const bytes = PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(size));
            if (!bytes) throw py::error_already_set();
            decoder_->write(span, {PyBytes_AS_STRING(bytes), size});
            return py::reinterpret_steal<py::bytes>(bytes);
        });
    }

    // The str of each of `batch`; what is not UTF-8 becomes U+FFFD.
    py::list decode_batch(const py::iterable& batch) const {
        std::vector<char> text;
        py::list result;
        for (const py::handle ids : batch) {
            with_ids(ids, [&](auto span) {
                const std::size_t size = decoder_->size(span);
                if (text.size() < size) text.resize(2 * size);
                decoder_->write(span, {text.data(), size});
                PyObject* const str = PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(size), "replace");
                if (!str) throw py::error_already_set();
                result.append(py::reinterpret_steal<py::object>(str));
            });
        }
        return result;
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
    struct Encoded {
        std::vector<bpe::Memory<Id>> ids;
        std::vector<std::size_t> sizes;
        std::size_t size() const { return sizes.size(); }
    };

    Encoded run(const Texts& texts, unsigned threads) const {
        const std::size_t count = texts.views().size();
        Encoded all{std::vector<bpe::Memory<Id>>(count), std::vector<std::size_t>(count)};
        const py::gil_scoped_release release;
        encoder_->encode_batch(texts.views(), threads, [&](std::size_t i, std::span<const Id> ids) {
            all.ids[i] = bpe::allocate<Id>(ids.size());
            std::copy(ids.begin(), ids.end(), all.ids[i].get());
            all.sizes[i] = ids.size();
        });
        return all;
    }

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

void add_texts(bpe::Trainer& trainer, const py::object& iterable, unsigned threads) {
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
    constexpr std::size_t most = 256;
    const bpe::Byte* block[most];
    bpe::GrowingBuffer<std::int64_t> ends;
    for (const bpe::Byte* p = begin; p < end;) {
        std::size_t count = 1;
        if (method == "scalar")
            block[0] = bpe::piece_end(p, end, splitting);
        else if (method == "portable")
            count = bpe::split_portable(p, end, block, most, splitting);
        else
            count = bpe::split(p, end, block, most, splitting);
        std::transform(block, block + count, ends.reserve(count), [&](const bpe::Byte* at) { return at - begin; });
        ends.advance(count);
        p = block[count - 1];
    }
    const std::size_t size = ends.size();
    return to_array(ends.release(), size);
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
        .def("encode_flat", &PyEncoder::encode_flat, py::arg("texts"), py::arg("threads"))
        .def("decode", &PyEncoder::decode, py::arg("ids"))
        .def("decode_batch", &PyEncoder::decode_batch, py::arg("batch"))
        .def("parts", &PyEncoder::parts)
        .def_property_readonly("regular", &PyEncoder::regular);

    py::class_<bpe::Trainer>(module, "BpeTrainer")
        .def(py::init<>())
        .def("add", &add_texts, py::arg("texts"), py::arg("threads"))
        .def("train", &train, py::arg("merges"), py::arg("progress") = py::none());
}

}  // namespace pynanochat
