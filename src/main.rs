//! The `tenure` program: `operator`, `crds`.

/// glibc's allocator keeps what the first list needed for ever.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    // The allocator asks for huge pages, and each that it touches counts as a whole: a third of the resident memory. Where the
    // kernel knows none, there is nothing to switch off.
    #[cfg(target_os = "linux")]
    rustix::thread::disable_transparent_huge_pages(true).ok();
    tenure::app::main()
}
