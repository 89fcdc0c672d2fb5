#include "bindings/texts.h"

#include <cstdint>
#include <cstring>
#include <string>

#include "bpe/unicode.h"

// The structures of the Arrow C data interface, as its specification lays them out.
struct ArrowSchema {
    const char* format;
    const char* name;
    const char* metadata;
    std::int64_t flags, n_children;
    ArrowSchema** children;
    ArrowSchema* dictionary;
    void (*release)(ArrowSchema*);
    void* private_data;
};
struct ArrowArray {
    std::int64_t length, null_count, offset, n_buffers, n_children;
    const void** buffers;
    ArrowArray** children;
    ArrowArray* dictionary;
    void (*release)(ArrowArray*);
    void* private_data;
};
struct ArrowArrayStream {
    int (*get_schema)(ArrowArrayStream*, ArrowSchema*);
    int (*get_next)(ArrowArrayStream*, ArrowArray*);
    const char* (*get_last_error)(ArrowArrayStream*);
    void (*release)(ArrowArrayStream*);
    void* private_data;
};

namespace pynanochat {

namespace {

// Releases what another library has lent.
template <class T>
struct Lent : T {
    Lent() : T{} {}
    Lent(const Lent&) = delete;
    Lent& operator=(const Lent&) = delete;
    ~Lent() {
        if (this->release) this->release(this);
    }
    // Takes over what `from` held.
    void take(T* from) {
        static_cast<T&>(*this) = *from;
        from->release = nullptr;
    }
};

template <class T>
T* pointer(const py::handle& capsule, const char* name) {
    void* const found = PyCapsule_GetPointer(capsule.ptr(), name);
    if (!found) throw py::error_already_set();
    return static_cast<T*>(found);
}

std::string_view string_at(const ArrowArray& array, char format, std::size_t i) {
    const auto between = [&](const auto* offsets) {
        const char* const data = static_cast<const char*>(array.buffers[2]);
        return std::string_view(data + offsets[i], static_cast<std::size_t>(offsets[i + 1] - offsets[i]));
    };
    if (format == 'u') return between(static_cast<const std::int32_t*>(array.buffers[1]));
    if (format == 'U') return between(static_cast<const std::int64_t*>(array.buffers[1]));
    // A view: its size, then up to 12 bytes themselves, or four of them, the number of a buffer and a place in it.
    const char* const view = static_cast<const char*>(array.buffers[1]) + 16 * i;
    std::int32_t word[4];
    std::memcpy(word, view, 16);
    const std::size_t size = static_cast<std::size_t>(word[0]);
    if (size <= 12) return {view + 4, size};
    return {static_cast<const char*>(array.buffers[2 + word[2]]) + word[3], size};
}

}  // namespace

struct Texts::Column {
    Lent<ArrowArray> array;
    char format;  // u: strings with 32-bit offsets, U: with 64-bit ones, v: views
};

Texts::~Texts() = default;

Texts::Texts(const py::str& text) { add(text); }

Texts::Texts(const py::object& texts) {
    const auto format_of = [](const ArrowSchema& schema) {
        const std::string format = schema.format;
        if (schema.dictionary || (format != "u" && format != "U" && format != "vu"))
            throw py::type_error("an Arrow column has the format " + format + "; it must hold strings (u, U or vu)");
        return format[0];
    };
    if (py::hasattr(texts, "__arrow_c_stream__")) {
        const py::object capsule = texts.attr("__arrow_c_stream__")();
        Lent<ArrowArrayStream> stream;
        stream.take(pointer<ArrowArrayStream>(capsule, "arrow_array_stream"));
        const auto check = [&stream](int error) {
            if (!error) return;
            const char* const why = stream.get_last_error(&stream);
            throw py::value_error(std::string("an Arrow stream cannot be read: ") + (why ? why : std::strerror(error)));
        };
        Lent<ArrowSchema> schema;
        check(stream.get_schema(&stream, &schema));
        while (true) {
            auto column = std::make_unique<Column>();
            check(stream.get_next(&stream, &column->array));
            if (!column->array.release) break;
            column->format = format_of(schema);
            add_column(std::move(column));
        }
    } else if (py::hasattr(texts, "__arrow_c_array__")) {
        const auto capsules = texts.attr("__arrow_c_array__")().cast<std::pair<py::object, py::object>>();
        auto column = std::make_unique<Column>();
        column->format = format_of(*pointer<ArrowSchema>(capsules.first, "arrow_schema"));
        column->array.take(pointer<ArrowArray>(capsules.second, "arrow_array"));
        add_column(std::move(column));
    } else {
        for (const py::handle text : py::iter(texts)) add(text);
    }
}

void Texts::add(py::handle text) {
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

void Texts::add_column(std::unique_ptr<Column> column) {
    const ArrowArray& array = column->array;
    const auto* const present = static_cast<const std::uint8_t*>(array.null_count == 0 ? nullptr : array.buffers[0]);
    for (std::int64_t row = 0; row < array.length; ++row) {
        const std::size_t i = static_cast<std::size_t>(array.offset + row);
        const auto number = [this] { return "text " + std::to_string(views_.size()) + " of a column is "; };
        if (present && !(present[i / 8] >> i % 8 & 1)) throw py::value_error(number() + "null; drop nulls first");
        const std::string_view text = string_at(array, column->format, i);
        if (const std::size_t bad = bpe::not_utf8(text); bad != std::string_view::npos)
            throw py::value_error(number() + "not UTF-8 at byte " + std::to_string(bad));
        views_.push_back(text);
    }
    columns_.push_back(std::move(column));
}

}  // namespace pynanochat
