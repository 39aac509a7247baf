//! The kubectl plugin: `kubectl tenure cards`.

fn main() -> std::process::ExitCode {
    tenure::app::kubectl_plugin()
}
