//! A strip or tile, decompressed. What comes out is never more than was asked for, whatever the bytes claim.

use std::io::Read;

use fax::Color;
use fax::decoder::{DecodeStatus, Group3Decoder, Group4Decoder, pels};
use flate2::read::ZlibDecoder;
use zune_core::bytestream::ZCursor;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;
use zune_jpeg::errors::DecodeErrors;

use crate::data::bad_samples::Fault;
use crate::data::decode::tiff::faults::{damaged, unsupported};
use crate::data::decode::tiff::page::{Compression, Page};

/// The rows of a strip or tile of `width` × `rows` pixels with so many values each: exactly as many bytes as
/// these have, each row from a byte of its own.
pub(super) fn decompress(
    page: &Page,
    data: &[u8],
    (width, rows): (u32, u32),
    values: usize,
) -> Result<Vec<u8>, Fault> {
    let row = (width as usize * values * page.bits as usize).div_ceil(8);
    let wanted = row * rows as usize;
    let turned: Vec<u8>;
    let data = match page.reversed && page.compression != Compression::Jpeg {
        true => {
            turned = data.iter().map(|byte| byte.reverse_bits()).collect();
            &turned
        }
        false => data,
    };
    let out = match page.compression {
        Compression::None => data.iter().copied().take(wanted).collect(),
        Compression::Deflate => read_at_most(ZlibDecoder::new(data), wanted)?,
        Compression::Zstd => {
            let frames =
                ruzstd::decoding::StreamingDecoder::new(data).map_err(|e| damaged(format!("zstd: {e}")))?;
            read_at_most(frames, wanted)?
        }
        Compression::Lzw => lzw(data, wanted)?,
        Compression::PackBits => pack_bits(data, wanted),
        Compression::Group3 | Compression::Group4 => lines(page.compression, data, (width, rows), row)?,
        Compression::Jpeg => jpeg(page, data, (width, rows), values)?,
    };
    if out.len() < wanted {
        return Err(damaged("ends before the picture does"));
    }
    Ok(out)
}

fn read_at_most(from: impl Read, wanted: usize) -> Result<Vec<u8>, Fault> {
    let mut out = Vec::new();
    match from.take(wanted as u64).read_to_end(&mut out) {
        Ok(_) => Ok(out),
        Err(e) => Err(damaged(format!("a strip of it cannot be unpacked: {e}"))),
    }
}

fn lzw(data: &[u8], wanted: usize) -> Result<Vec<u8>, Fault> {
    if let [0, second, ..] = data
        && second & 1 == 1
    {
        return Err(unsupported("old-style LZW"));
    }
    let mut decoder = weezl::decode::Decoder::with_tiff_size_switch(weezl::BitOrder::Msb, 8);
    let (mut out, mut read, mut written) = (vec![0; wanted], 0, 0);
    while written < wanted {
        let result = decoder.decode_bytes(&data[read..], &mut out[written..]);
        (read, written) = (read + result.consumed_in, written + result.consumed_out);
        match result.status {
            Ok(weezl::LzwStatus::Ok) if result.consumed_in + result.consumed_out > 0 => {}
            Ok(_) => break,
            Err(e) => return Err(damaged(format!("a strip of it cannot be unpacked: {e}"))),
        }
    }
    out.truncate(written);
    Ok(out)
}

fn pack_bits(mut data: &[u8], wanted: usize) -> Vec<u8> {
    let mut out = Vec::new();
    while out.len() < wanted {
        let Some((&head, rest)) = data.split_first() else { break };
        data = rest;
        match head as i8 {
            -128 => {}
            count @ 0.. => {
                let (run, rest) = data.split_at(data.len().min(count as usize + 1));
                out.extend_from_slice(run);
                data = rest;
            }
            count => {
                let Some((&value, rest)) = data.split_first() else { break };
                out.resize(out.len() + 1 + usize::from(count.unsigned_abs()), value);
                data = rest;
            }
        }
    }
    out.truncate(wanted);
    out
}

/// The lines of a fax, a bit a pixel, black ones set.
fn lines(
    compression: Compression,
    data: &[u8],
    (width, rows): (u32, u32),
    row: usize,
) -> Result<Vec<u8>, Fault> {
    let width = u16::try_from(width).map_err(|_| unsupported("a fax wider than 65535 pixels"))?;
    let mut out = Vec::new();
    let mut line = |changes: &[u16]| {
        let start = out.len();
        out.resize(start + row, 0_u8);
        for (x, colour) in pels(changes, width).enumerate() {
            if colour == Color::Black {
                out[start + x / 8] |= 0x80 >> (x % 8);
            }
        }
    };
    let bytes = || data.iter().map(|&byte| Ok::<u8, std::convert::Infallible>(byte));
    let broken = || damaged("a line of the fax is broken");
    match compression {
        Compression::Group3 => {
            let mut decoder = Group3Decoder::new(bytes()).map_err(|_| broken())?;
            for i in 0..rows {
                // Behind the last line there need not be another mark.
                if decoder.advance().is_err() && i + 1 < rows {
                    return Err(broken());
                }
                line(decoder.transitions());
            }
        }
        _ => {
            let Ok(mut decoder) = Group4Decoder::new(bytes(), width);
            for _ in 0..rows {
                match decoder.advance().map_err(|_| broken())? {
                    DecodeStatus::End => break,
                    DecodeStatus::Incomplete => line(decoder.transition()),
                }
            }
        }
    }
    Ok(out)
}

fn jpeg(page: &Page, data: &[u8], (width, rows): (u32, u32), values: usize) -> Result<Vec<u8>, Fault> {
    // Tables are a JPEG of their own: its end and the strip's start fall away.
    let tables = page.jpeg_tables.strip_suffix(&[0xff, 0xd9]).unwrap_or(&page.jpeg_tables);
    let rest = if tables.is_empty() { data } else { data.get(2..).unwrap_or_default() };
    let data = [tables, rest].concat();
    let options = DecoderOptions::default().set_max_width(65_535).set_max_height(65_535);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(&data), options);
    let failed = |e| match e {
        DecodeErrors::Unsupported(what) => unsupported(format!("JPEG strips ({what:?})")),
        e => damaged(format!("a strip of it cannot be unpacked: {e}")),
    };
    decoder.decode_headers().map_err(failed)?;
    let (info, stored) = (decoder.info(), decoder.input_colorspace());
    let (Some(info), Some(stored)) = (info, stored) else { return Err(damaged("a strip of it is no JPEG")) };
    let size = (u32::from(info.width), u32::from(info.height));
    // the last strip may be stored in full
    if size.0 != width || size.1 < rows || size.1 > page.chunk.1.max(rows) {
        return Err(damaged(format!("a strip of it is {}×{}, not {width}×{rows}", size.0, size.1)));
    }
    if stored.num_components() != values {
        return Err(damaged(format!("a strip of it has {} colours, not {values}", stored.num_components())));
    }
    // as they are stored: the tags say what they mean
    decoder.set_options(options.jpeg_set_out_colorspace(stored));
    let mut out = decoder.decode().map_err(failed)?;
    out.truncate(width as usize * rows as usize * values);
    Ok(out)
}
