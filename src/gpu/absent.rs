//! Why there is no graphics card to be found where one may be: what containers and fresh systems forget.

use std::path::Path;

/// What stands in the way of a graphics card of which the system shows something; `None` where it shows none.
pub fn hidden_card() -> Option<&'static str> {
    found_under(Path::new("/"))
}

fn found_under(root: &Path) -> Option<&'static str> {
    let dev = root.join("dev");
    let has = |name: &str| dev.join(name).exists();
    if has("nvidiactl") || has("nvidia0") {
        return Some(
            "an NVIDIA card is there (/dev/nvidia0), but not its Vulkan driver: a container needs \
             NVIDIA_DRIVER_CAPABILITIES=all (docker run -e) and libvulkan1",
        );
    }
    if has("dxg") {
        return Some(
            "WSL has a graphics card (/dev/dxg), which Mesa's dzn driver reaches \
             (mesa-vulkan-drivers of a recent system), or run the program on Windows itself",
        );
    }
    let mut nodes = std::fs::read_dir(dev.join("dri")).into_iter().flatten().flatten();
    let node = nodes.find(|node| node.file_name().to_string_lossy().starts_with("renderD"))?;
    Some(match std::fs::File::options().read(true).write(true).open(node.path()) {
        Ok(_) => {
            "a graphics card is there (/dev/dri), but no Vulkan driver for it: install one (mesa-vulkan-drivers on \
             Debian and Ubuntu)"
        }
        Err(_) => {
            "a graphics card is there (/dev/dri), which this user may not open: join the group `render`"
        }
    })
}

#[cfg(test)]
mod tests {
    use super::found_under;

    #[test]
    fn a_card_without_its_driver_is_named() {
        let root = std::env::temp_dir().join(format!("poa-gpu-absent-{}", std::process::id()));
        let dri = root.join("dev/dri");
        std::fs::create_dir_all(&dri).unwrap();
        assert_eq!(found_under(&root), None);
        let seen = |file: &str, what: &str| {
            std::fs::write(root.join("dev").join(file), "").unwrap();
            let told = found_under(&root).unwrap();
            assert!(told.contains(what), "{told}");
        };
        std::fs::write(dri.join("card0"), "").unwrap();
        assert_eq!(found_under(&root), None);
        seen("dri/renderD128", "no Vulkan driver");
        seen("dxg", "WSL");
        seen("nvidiactl", "NVIDIA_DRIVER_CAPABILITIES");
        std::fs::remove_dir_all(&root).unwrap();
    }
}
