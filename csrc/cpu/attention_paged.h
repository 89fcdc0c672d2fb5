// Arguments of attention over paged keys and values on the CPU; see attention_paged.cpp.
#pragma once

#include <cstdint>

#include "common/isa.h"

namespace pynanochat {

struct AttentionPaged {
    struct Pages {  // (pages, page, groups, D), elements of a head adjacent
        const void* data;
        std::int64_t stride[3];  // of page, token, head; elements
    };
    std::int64_t rows, heads, groups, head_dim;
    std::int64_t page;          // tokens of a page
    std::int64_t window;        // a query at i sees i - window ... i
    std::int64_t most_queries;  // rows that have more are left alone
    bool is_bf16;               // else fp32: q, k, v and out
    const void* q;              // (queries, heads, D), as out
    void* out;
    std::int64_t q_stride[2], out_stride[2];  // of query, head; elements
    Pages k, v;
    const std::int64_t* tables;   // (rows, table_size): the page of each row's tokens i page ... i page + page - 1
    std::int64_t table_size;
    const std::int64_t* starts;   // (rows + 1): row r's queries are starts[r] ... starts[r + 1] - 1
    const std::int64_t* lengths;  // (rows): tokens of the row, its queries being the last of them
};

}  // namespace pynanochat

PYNANOCHAT_KERNEL(attention_paged, const AttentionPaged& op)
