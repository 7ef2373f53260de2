// SPDX-License-Identifier: BSD-3-Clause
// Every CPU launcher, compiled for each instruction set into a namespace of its own.
#pragma once

#include <optional>
#include <string>

#include "core/tensor.h"

namespace ft::cpu {

namespace generic {
#include "cpu/launchers.inc"
}
namespace avx2 {
#include "cpu/launchers.inc"
}
namespace avx512 {
#include "cpu/launchers.inc"
}

}  // namespace ft::cpu
