//! Truncated files and flipped bytes under a real node's directory.
//!
//! Why in processes of their own: sled's pool of threads is the process's, and a panic in it stays.
