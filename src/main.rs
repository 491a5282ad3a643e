//! The `tidegate` command.

/// A row is a dozen small allocations that other threads free: what glibc's allocator
/// did for that was the largest part of a drain (docs/adr/0019-what-a-row-costs.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    tidegate::cli::main()
}
