//! Harness for black-box tests of the `petnet` binary.
