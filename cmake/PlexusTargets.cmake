# The few functions by which every target of the project is declared.
#
#   plexus_library(NAME SOURCES ... [DEPS ...] [PRIVATE_DEPS ...])   static library plexus::NAME
#   plexus_program(NAME SOURCES ... [DEPS ...])                      executable in build/<preset>/bin
#   plexus_test(NAME SOURCES ... [DEPS ...] [LABELS ...] [TIMEOUT s] [ARGS ...])   GoogleTest executable and its ctest
#   plexus_fuzz(NAME SOURCES ... [DEPS ...])                         libFuzzer executable, with PLEXUS_FUZZ only

add_library(plexus_options INTERFACE)
target_compile_features(plexus_options INTERFACE cxx_std_20)
target_compile_options(plexus_options INTERFACE
  -march=x86-64-v3 -fno-omit-frame-pointer
  -Wall -Wextra $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict> -Wshadow -Wnon-virtual-dtor -Wundef -Werror)
if(PLEXUS_SANITIZE)
  target_compile_options(plexus_options INTERFACE -fsanitize=${PLEXUS_SANITIZE} -fno-sanitize-recover=all)
  target_link_options(plexus_options INTERFACE -fsanitize=${PLEXUS_SANITIZE})
endif()
if(PLEXUS_FUZZ)
  target_compile_options(plexus_options INTERFACE -fsanitize=fuzzer-no-link)
endif()

function(plexus_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS;PRIVATE_DEPS" ${ARGN})
  add_library(plexus_${name} STATIC ${ARG_SOURCES})
  add_library(plexus::${name} ALIAS plexus_${name})
  target_include_directories(plexus_${name} PUBLIC ${PROJECT_SOURCE_DIR} ${PROJECT_BINARY_DIR})
  target_link_libraries(plexus_${name} PUBLIC ${ARG_DEPS} PRIVATE plexus_options ${ARG_PRIVATE_DEPS})
endfunction()

function(plexus_program name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR} ${PROJECT_BINARY_DIR})
  target_link_libraries(${name} PRIVATE plexus_options ${ARG_DEPS})
endfunction()

function(plexus_test name)
  cmake_parse_arguments(ARG "" "TIMEOUT" "SOURCES;DEPS;LABELS;ARGS" ${ARGN})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  if(NOT ARG_LABELS)
    set(ARG_LABELS unit)
  endif()
  plexus_program(${name} SOURCES ${ARG_SOURCES} DEPS ${ARG_DEPS} GTest::gtest_main GTest::gmock)
  add_test(NAME ${name} COMMAND ${name} ${ARG_ARGS})
  set_tests_properties(${name} PROPERTIES LABELS "${ARG_LABELS}" TIMEOUT ${ARG_TIMEOUT})
endfunction()

function(plexus_fuzz name)
  if(NOT PLEXUS_FUZZ)
    return()
  endif()
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  plexus_program(${name} SOURCES ${ARG_SOURCES} DEPS ${ARG_DEPS})
  target_link_options(${name} PRIVATE -fsanitize=fuzzer)
endfunction()
