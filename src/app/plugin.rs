//! `kubectl tenure`: the plugin's command line.

use std::io::{BufWriter, IsTerminal, Read as _, Write};
use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use crate::cli::read_api::{ReadApi, Way};
use crate::cli::{bill, cards, ledger, quote};

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
    /// Says what applying manifests would cost now.
    Quote {
        /// The manifests; `-`: standard input.
        #[arg(short, long, value_name = "FILE")]
        file: PathBuf,
        /// The namespace of manifests that name none; absent: the context's.
        #[arg(short, long)]
        namespace: Option<String>,
        /// A table for people, or JSON.
        #[arg(short, long, value_enum, default_value_t = Output::Table)]
        output: Output,
        #[command(flatten)]
        way: Way,
    },
    /// Says what an account was billed in a month, line by line.
    Bill {
        /// The Account.
        #[arg(long)]
        account: String,
        /// The month in UTC, such as 2026-11; absent: this one.
        #[arg(long)]
        month: Option<String>,
        /// A table for people, or JSON.
        #[arg(short, long, value_enum, default_value_t = Output::Table)]
        output: Output,
        #[command(flatten)]
        way: Way,
    },
    /// Looks into the ledger.
    #[command(subcommand)]
    Ledger(LedgerCommand),
}

#[derive(Subcommand, Debug)]
enum LedgerCommand {
    /// Has the operator check the whole ledger.
    Verify {
        /// A sentence for people, or JSON.
        #[arg(short, long, value_enum, default_value_t = Output::Table)]
        output: Output,
        #[command(flatten)]
        way: Way,
    },
    /// Writes the ledger to files: Cost and Usage to FILE, and Contract Commitment beside it.
    Export {
        /// As FOCUS has it, the FinOps Open Cost and Usage Specification.
        #[arg(long, required = true)]
        focus: bool,
        /// How the files are written.
        #[arg(long, value_enum)]
        format: ledger::Format,
        /// Where Cost and Usage goes. Contract Commitment goes to a file beside it, whose name ends in `-contract-commitment`.
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
        /// Of one Account; absent: of all.
        #[arg(long)]
        account: Option<String>,
        /// Of one month in UTC, such as 2026-11; absent: all there is.
        #[arg(long)]
        month: Option<String>,
        #[command(flatten)]
        way: Way,
    },
}

/// How something is shown.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
enum Output {
    Table,
    Json,
}

/// Runs it.
pub fn run() -> Result<(), String> {
    let options = Options::parse();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|it| it.to_string())?;
    runtime.block_on(show(options))
}

async fn show(options: Options) -> Result<(), String> {
    let config = configuration(&options).await?;
    let client = Client::try_from(config.clone()).map_err(|it| it.to_string())?;
    let mut out = BufWriter::new(std::io::stdout());
    match options.command {
        Command::Cards => {
            let picture = cards::read(&client).await.map_err(|it| it.to_string())?;
            let color = std::io::stdout().is_terminal();
            write!(out, "{}", cards::draw(&picture, color)).map_err(|it| it.to_string())?;
        }
        Command::Quote { file, namespace, output, way } => {
            let documents = quote::read(&text_of(&file)?)?;
            let namespace = namespace.as_deref().unwrap_or(&config.default_namespace);
            quote::check(&client, namespace, &documents).await?;
            let api = ReadApi::open(&config, &client, &way).await?;
            let answer = quote::ask(&api, namespace, &documents).await?;
            print(&mut out, output, &answer, || quote::draw(&answer))?;
        }
        Command::Bill { account, month, output, way } => {
            let api = ReadApi::open(&config, &client, &way).await?;
            bill::write(&api, &account, month.as_deref(), output == Output::Json, &mut out).await?;
        }
        Command::Ledger(LedgerCommand::Verify { output, way }) => {
            let api = ReadApi::open(&config, &client, &way).await?;
            let report = ledger::verify(&api).await?;
            print(&mut out, output, &report, || Ok(ledger::draw(&report)))?;
        }
        Command::Ledger(LedgerCommand::Export { focus: _, format, output, account, month, way }) => {
            let api = ReadApi::open(&config, &client, &way).await?;
            let (account, month) = (account.as_deref(), month.as_deref());
            let what = ledger::Export { account, month, format, file: &output };
            for (file, rows) in ledger::export(&api, &what).await? {
                writeln!(out, "{}: {rows} rows", file.display()).map_err(|it| it.to_string())?;
            }
        }
    }
    out.flush().map_err(|it| it.to_string())
}

fn print(
    out: &mut impl Write,
    output: Output,
    answer: &serde_json::Value,
    drawn: impl FnOnce() -> Result<String, String>,
) -> Result<(), String> {
    let text = match output {
        Output::Json => format!("{answer:#}\n"),
        Output::Table => drawn()?,
    };
    write!(out, "{text}").map_err(|it| it.to_string())
}

fn text_of(file: &std::path::Path) -> Result<String, String> {
    if file.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map_err(|it| format!("read standard input: {it}"))?;
        return Ok(text);
    }
    std::fs::read_to_string(file).map_err(|it| format!("read {}: {it}", file.display()))
}

async fn configuration(options: &Options) -> Result<Config, String> {
    let kubeconfig = match &options.kubeconfig {
        Some(path) => Kubeconfig::read_from(path),
        None => Kubeconfig::read(),
    };
    let kubeconfig = kubeconfig.map_err(|it| format!("read kubeconfig: {it}"))?;
    let context = KubeConfigOptions { context: options.context.clone(), ..KubeConfigOptions::default() };
    Config::from_custom_kubeconfig(kubeconfig, &context).await.map_err(|it| format!("read kubeconfig: {it}"))
}
