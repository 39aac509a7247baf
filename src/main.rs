//! The `tenure` program: `operator`, `crds`.

/// glibc's allocator keeps what the first list needed for ever.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    tenure::app::main()
}
