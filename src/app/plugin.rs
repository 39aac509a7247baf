//! `kubectl tenure`: the plugin's command line.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;

use clap::{Parser, Subcommand};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use crate::cli::cards;

/// Shows what kubectl's columns can't.
#[derive(Parser, Debug)]
#[command(name = "kubectl tenure", version)]
struct Options {
    /// A kubeconfig file; absent: KUBECONFIG, or ~/.kube/config.
    #[arg(long, global = true)]
    kubeconfig: Option<PathBuf>,
    /// A context of it; absent: the current one.
    #[arg(long, global = true)]
    context: Option<String>,
    /// What to show.
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Draws every managed node, every card, and whose it is.
    Cards,
}

/// Runs it.
pub fn run() -> Result<(), String> {
    let options = Options::parse();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|it| it.to_string())?;
    runtime.block_on(async {
        let client = connect(&options).await?;
        match options.command {
            Command::Cards => {
                let picture = cards::read(&client).await.map_err(|it| it.to_string())?;
                let mut out = std::io::stdout();
                let color = out.is_terminal();
                write!(out, "{}", cards::draw(&picture, color)).map_err(|it| it.to_string())
            }
        }
    })
}

async fn connect(options: &Options) -> Result<Client, String> {
    let kubeconfig = match &options.kubeconfig {
        Some(path) => Kubeconfig::read_from(path),
        None => Kubeconfig::read(),
    };
    let kubeconfig = kubeconfig.map_err(|it| format!("read kubeconfig: {it}"))?;
    let context = KubeConfigOptions { context: options.context.clone(), ..KubeConfigOptions::default() };
    let config = Config::from_custom_kubeconfig(kubeconfig, &context)
        .await
        .map_err(|it| format!("read kubeconfig: {it}"))?;
    Client::try_from(config).map_err(|it| it.to_string())
}
