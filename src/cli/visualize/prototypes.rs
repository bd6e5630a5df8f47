//! The images, or patches, of the prototypes that most images choose.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use image::imageops::{FilterType, resize};
use serde_json::json;

use crate::cli::progress::bar;
use crate::cli::subject::{Subject, open_head};
use crate::cli::visualize::arguments::VisualizeArgs;
use crate::data::channels::in_channels;
use crate::data::{self, Source};
use crate::error::Result;
use crate::eval::prototype_pictures::{ChoiceOptions, choices, most_chosen, tiled, window};
use crate::eval::prototypes::{MODULES, heads_in};
use crate::eval::visualize::picture;
use crate::files::durable::replace_file;
use crate::logging::{info, warn};
use crate::plot::write_png;
use crate::shown::shown;
use crate::stop::Stop;

/// Pixels a side that a tile has at least.
const TILE: u32 = 64;

/// Draws them.
pub(super) fn draw(subject: &Subject, args: &VisualizeArgs, out: &Path, stop: &Stop) -> Result<()> {
    let Subject { teacher, network, size, device } = subject;
    // patches have heads of their own where these are separate
    let own = args.patch_tokens && !heads_in(&teacher.heads()?, MODULES[1])?.is_empty();
    let prototypes = open_head(teacher, MODULES[usize::from(own)], args.head, device)?;
    let source = data::open(args.data.as_deref().unwrap_or_default(), &teacher.config.data.reading())?;
    source.remarks().into_iter().for_each(info);
    let view = teacher.config.evaluation_view(*size)?;
    let options = ChoiceOptions { view: view.clone(), patches: args.patch_tokens, most: args.most };
    let encoder = teacher.encoder();
    let (found, bad) = choices(encoder, *network, &prototypes, &source, &options, &mut bar(), stop)?;
    if let Some(first) = bad.first() {
        let count = bad.len();
        warn(format_args!("{count} images cannot be used, such as {}: {}", first.name, first.reason));
    }
    let source: Arc<dyn Source> = in_channels(source, view.shape()[0])?;
    let grid = encoder.backbone.cells(*size);
    let mut all = Vec::new();
    for (rank, chosen) in most_chosen(&found, prototypes.count(), args.prototypes).iter().enumerate() {
        let (mut tiles, mut shown_images) = (Vec::new(), Vec::new());
        for image in &chosen.images {
            let Some(choice) = found[*image] else { continue };
            let Ok(decoded) = source.load(*image) else { continue };
            let whole = picture(&view.of(&decoded), &view);
            let tile =
                if args.patch_tokens { window(&whole, grid, choice.cell as usize) } else { Some(whole) };
            let Some(tile) = tile else { continue };
            let factor = TILE.div_ceil(tile.width()).max(1);
            tiles.push(resize(&tile, tile.width() * factor, tile.height() * factor, FilterType::Nearest));
            shown_images
                .push(json!({ "image": source.name(*image), "logit": choice.logit, "cell": choice.cell }));
            if tiles.len() == args.tiles {
                break;
            }
        }
        let name = format!("prototype-{:03}-{}.png", rank + 1, chosen.prototype);
        // all windows may be dark
        if let Some(grid) = tiled(&tiles, args.tiles) {
            write_png(&out.join(&name), &grid)?;
        }
        let mut classes: BTreeMap<u32, usize> = BTreeMap::new();
        chosen
            .images
            .iter()
            .filter_map(|i| source.label(*i))
            .for_each(|c| *classes.entry(c).or_default() += 1);
        let class = classes.iter().max_by_key(|(class, count)| (**count, std::cmp::Reverse(**class)));
        let class = class.map(|(class, count)| (&source.classes()[*class as usize], *count));
        let most =
            class.map_or_else(String::new, |(name, count)| format!(", {count} of them {}", shown(name)));
        say!("{}: chosen by {} images{most}", shown(&out.join(&name)), chosen.images.len());
        all.push(json!({
            "prototype": chosen.prototype, "picture": name, "chosen_by": chosen.images.len(),
            "most_common_class": class.map(|(name, _)| name), "of_that_class": class.map(|(_, count)| count),
            "tiles": shown_images,
        }));
    }
    let about = json!({
        "checkpoint": teacher.dir, "network": network.to_string(), "source": source.describe(), "images": found.len(),
        "unreadable": bad.len(), "prototypes_of_the_head": prototypes.count(), "patch_tokens": args.patch_tokens,
        "prototypes": all,
    });
    replace_file(&out.join("prototypes.json"), format!("{about:#}\n").as_bytes())
}
