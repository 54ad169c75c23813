//! todo: the fdatasync definition
