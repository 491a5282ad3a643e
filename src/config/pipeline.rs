//! What one pipeline is: where it reads, where it writes, and how.
