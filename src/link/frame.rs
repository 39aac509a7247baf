//! Length-prefixed JSON frames: four bytes of length (big-endian), then one message.

use std::io;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// A frame is at most so large: a snapshot of 10,000 endpoints with ten workers each is about 25 MB.
const FRAME_BYTES_MAX: u32 = 64 << 20;

/// Reads one message; `None` when the other end has closed the line between two.
///
/// # Errors
/// The line broke, or what came is no message.
pub async fn read<T: DeserializeOwned>(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<T>> {
    let length = match from.read_u32().await {
        Ok(length) => length,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    if length > FRAME_BYTES_MAX {
        return Err(io::Error::other(format!("a frame of {length} bytes; {FRAME_BYTES_MAX} are the most")));
    }
    // Grows with what really comes: a length alone allocates nothing.
    let mut bytes = Vec::new();
    from.take(u64::from(length)).read_to_end(&mut bytes).await?;
    if bytes.len() != usize::try_from(length).unwrap_or(usize::MAX) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    serde_json::from_slice(&bytes).map(Some).map_err(io::Error::other)
}

/// A message as it goes over the line.
///
/// # Errors
/// It is too large.
pub fn encode<T: Serialize>(message: &T) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, message).map_err(io::Error::other)?;
    let length = u32::try_from(bytes.len() - 4).ok().filter(|it| *it <= FRAME_BYTES_MAX);
    let length = length.ok_or_else(|| io::Error::other("the message is too large for a frame"))?;
    bytes[..4].copy_from_slice(&length.to_be_bytes());
    Ok(bytes)
}

/// Writes one message and flushes.
///
/// # Errors
/// The line broke, or the message is too large.
pub async fn write<T: Serialize>(to: &mut (impl AsyncWrite + Unpin), message: &T) -> io::Result<()> {
    to.write_all(&encode(message)?).await?;
    to.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_written_is_read_until_the_line_ends() {
        let (mut near, mut far) = tokio::io::duplex(16);
        let words = vec!["one".to_owned(), "x".repeat(1000)];
        let writing = async {
            for word in &words {
                write(&mut near, word).await.unwrap();
            }
            drop(near);
        };
        let reading = async {
            let mut found = Vec::new();
            while let Some(word) = read::<String>(&mut far).await.unwrap() {
                found.push(word);
            }
            found
        };
        assert_eq!(tokio::join!(writing, reading).1, words);
    }

    #[tokio::test]
    async fn a_frame_that_is_cut_off_or_too_large_is_an_error() {
        let cut = [&[0, 0, 0, 9][..], b"\"ab"].concat();
        assert_eq!(read::<String>(&mut &cut[..]).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        let large = u32::MAX.to_be_bytes();
        assert!(read::<String>(&mut &large[..]).await.unwrap_err().to_string().contains("are the most"));
    }
}
