//! todo: names, key bytes, versions
