//! The networks by name, and the trunks that some of them can be put on.

use anyhow::{Result, bail, ensure};
use serde::{Deserialize, Serialize};

use super::{
    Trunk, deeplabv3, deeplabv3_light, efficientnet_lite, fcn, mobilenet_edgetpu, mobilenet_v2,
    panoptic_deeplab_light, pspnet, resnet, segformer, segnet, segnet_separable, solo_light, unet,
    unet_light,
};
use crate::graph::Graph;

/// The trunks there are, with the names that recipes give them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TrunkKind {
    /// EfficientNet-Lite0.
    EfficientnetLite0,
    /// EfficientNet-Lite1.
    EfficientnetLite1,
    /// EfficientNet-Lite2.
    EfficientnetLite2,
    /// MobileNetV2.
    MobilenetV2,
    /// MobileNetV2 with half of the channels.
    #[serde(rename = "mobilenet-v2-0.5")]
    MobilenetV2Half,
    /// MobileNetV2 as DeepLab has it.
    #[serde(rename = "mobilenet-v2-deeplab")]
    MobilenetV2Deeplab,
    /// The same with half of the channels.
    #[serde(rename = "mobilenet-v2-deeplab-0.5")]
    MobilenetV2DeeplabHalf,
    /// MobileNetEdgeTPU as DeepLab has it for Cityscapes.
    MobilenetEdgetpu,
    /// VGG16.
    Vgg16,
    /// VGG16 with batch normalisation.
    Vgg16Bn,
    /// ResNet-18.
    #[serde(rename = "resnet-18")]
    Resnet18,
}

impl TrunkKind {
    /// Its name in recipes.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::EfficientnetLite0 => "efficientnet-lite0",
            Self::EfficientnetLite1 => "efficientnet-lite1",
            Self::EfficientnetLite2 => "efficientnet-lite2",
            Self::MobilenetV2 => "mobilenet-v2",
            Self::MobilenetV2Half => "mobilenet-v2-0.5",
            Self::MobilenetV2Deeplab => "mobilenet-v2-deeplab",
            Self::MobilenetV2DeeplabHalf => "mobilenet-v2-deeplab-0.5",
            Self::MobilenetEdgetpu => "mobilenet-edgetpu",
            Self::Vgg16 => "vgg16",
            Self::Vgg16Bn => "vgg16-bn",
            Self::Resnet18 => "resnet-18",
        }
    }

    /// Mean and divisor that its published weights were trained with, on 0..255 RGB.
    #[must_use]
    pub fn normalisation(self) -> ([f32; 3], [f32; 3]) {
        match self {
            Self::EfficientnetLite0 | Self::EfficientnetLite1 | Self::EfficientnetLite2 => {
                (efficientnet_lite::MEAN, efficientnet_lite::STD)
            }
            Self::MobilenetV2Deeplab | Self::MobilenetV2DeeplabHalf | Self::MobilenetEdgetpu => {
                (mobilenet_v2::DEEPLAB_MEAN, mobilenet_v2::DEEPLAB_STD)
            }
            _ => (mobilenet_v2::MEAN, mobilenet_v2::STD),
        }
    }

    /// The trunk with features of strides 2 to 16, for a light decoder.
    fn features(self) -> Option<Trunk> {
        match self {
            Self::EfficientnetLite0 => Some(efficientnet_lite::lite(efficientnet_lite::LITE0)),
            Self::EfficientnetLite1 => Some(efficientnet_lite::lite(efficientnet_lite::LITE1)),
            Self::EfficientnetLite2 => Some(efficientnet_lite::lite(efficientnet_lite::LITE2)),
            Self::MobilenetV2 => Some(mobilenet_v2::mobilenet_v2(1.0)),
            Self::MobilenetV2Half => Some(mobilenet_v2::mobilenet_v2(0.5)),
            Self::MobilenetV2Deeplab => Some(mobilenet_v2::deeplab(1.0)),
            Self::MobilenetV2DeeplabHalf => Some(mobilenet_v2::deeplab(0.5)),
            Self::MobilenetEdgetpu => Some(mobilenet_edgetpu::mobilenet_edgetpu()),
            Self::Resnet18 => Some(resnet::resnet18(16, 1)),
            Self::Vgg16 | Self::Vgg16Bn => None,
        }
    }
}

/// What a recipe may set of a network in a light form; `None` leaves the network's own value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// The trunk.
    pub trunk: Option<TrunkKind>,
    /// Channels of DeepLabv3's pyramid.
    pub pyramid: Option<i64>,
    /// Channels of the decoder at stride 8, 4, 2.
    pub decoder: Option<Vec<i64>>,
    /// Dilations of DeepLabv3's pyramid: three, or none.
    pub rates: Option<Vec<i64>>,
}

/// A decoder in a light form, on a trunk of one's choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Light {
    DeepLabV3,
    PanopticDeepLab,
    SegNet,
    UNet,
    Solo,
}

/// How a network tells objects apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectForm {
    /// Classes, centres, and the way from each cell to its centre.
    Centers,
    /// Cells of grids that name a class and give a mask.
    Grids,
}

#[derive(Clone, Copy)]
enum Form {
    /// As its paper has it: from classes, and a divisor of the other channels.
    Paper(fn(i64, i64) -> Graph),
    Light {
        decoder: Light,
        channels: &'static [i64],
    },
}

/// A network by name.
pub struct Architecture {
    /// Its name.
    pub name: &'static str,
    /// Where it was published.
    pub paper: &'static str,
    /// The trunk, whose published weights it can start from.
    pub trunk: Option<TrunkKind>,
    /// Stride of the logits.
    pub stride: i64,
    /// Sides of the input are multiples of this.
    pub multiple: i64,
    form: Form,
}

const DEEPLAB_PYRAMID: i64 = 160;
const DEEPLAB_RATES: [i64; 3] = [3, 6, 9];

/// A light network; logits at the stride of the decoder's last step.
const fn light(
    name: &'static str,
    paper: &'static str,
    trunk: TrunkKind,
    decoder: Light,
    channels: &'static [i64],
) -> Architecture {
    Architecture {
        name,
        paper,
        trunk: Some(trunk),
        stride: 16 >> channels.len(),
        multiple: 16,
        form: Form::Light { decoder, channels },
    }
}

const fn paper(
    name: &'static str,
    paper: &'static str,
    trunk: Option<TrunkKind>,
    stride: i64,
    multiple: i64,
    build: fn(i64, i64) -> Graph,
) -> Architecture {
    Architecture {
        name,
        paper,
        trunk,
        stride,
        multiple,
        form: Form::Paper(build),
    }
}

const LONG: &str = "Long et al. 2015, arXiv:1411.4038";
const RONNEBERGER: &str = "Ronneberger et al. 2015, arXiv:1505.04597";
const BADRINARAYANAN: &str = "Badrinarayanan et al. 2017, arXiv:1511.00561";
const CHEN: &str = "Chen et al. 2017, arXiv:1706.05587";
const CHENG: &str = "Cheng et al. 2020, arXiv:1911.10194";
const ZHAO: &str = "Zhao et al. 2017, arXiv:1612.01105";
const XIE: &str = "Xie et al. 2021, arXiv:2105.15203";
const WANG: &str = "Wang et al. 2020, arXiv:2003.10152";

/// Every network there is.
pub static ARCHITECTURES: [Architecture; 17] = [
    paper(
        "fcn-32s",
        LONG,
        Some(TrunkKind::Vgg16),
        32,
        32,
        |classes, divide| fcn::fcn(32, classes, divide),
    ),
    paper(
        "fcn-16s",
        LONG,
        Some(TrunkKind::Vgg16),
        16,
        32,
        |classes, divide| fcn::fcn(16, classes, divide),
    ),
    paper(
        "fcn-8s",
        LONG,
        Some(TrunkKind::Vgg16),
        8,
        32,
        |classes, divide| fcn::fcn(8, classes, divide),
    ),
    paper("unet", RONNEBERGER, None, 1, 16, unet::unet),
    light(
        "unet-light",
        RONNEBERGER,
        TrunkKind::EfficientnetLite0,
        Light::UNet,
        &[96, 48, 24],
    ),
    paper(
        "segnet",
        BADRINARAYANAN,
        Some(TrunkKind::Vgg16Bn),
        1,
        32,
        segnet::segnet,
    ),
    paper("segnet-basic", BADRINARAYANAN, None, 1, 16, segnet::segnet_basic),
    light(
        "segnet-separable",
        BADRINARAYANAN,
        TrunkKind::EfficientnetLite0,
        Light::SegNet,
        &[96, 64, 32],
    ),
    paper(
        "deeplabv3-resnet18",
        CHEN,
        Some(TrunkKind::Resnet18),
        16,
        16,
        |classes, divide| deeplabv3::deeplabv3(resnet::resnet18(16, divide), classes, divide),
    ),
    paper(
        "deeplabv3-mobilenetv2",
        CHEN,
        Some(TrunkKind::MobilenetV2),
        16,
        16,
        |classes, divide| {
            deeplabv3::deeplabv3(mobilenet_v2::mobilenet_v2(1.0 / divide as f64), classes, divide)
        },
    ),
    light(
        "deeplabv3-light",
        CHEN,
        TrunkKind::EfficientnetLite0,
        Light::DeepLabV3,
        &[96],
    ),
    light(
        "deeplabv3-light-mobilenetv2",
        CHEN,
        TrunkKind::MobilenetV2,
        Light::DeepLabV3,
        &[96],
    ),
    light(
        "deeplabv3-light-mobilenetv2-0.5",
        CHEN,
        TrunkKind::MobilenetV2Half,
        Light::DeepLabV3,
        &[96],
    ),
    light(
        "panoptic-deeplab-light",
        CHENG,
        TrunkKind::EfficientnetLite0,
        Light::PanopticDeepLab,
        &[96],
    ),
    paper("pspnet", ZHAO, Some(TrunkKind::Resnet18), 8, 48, pspnet::pspnet),
    paper("segformer-b0", XIE, None, 4, 32, segformer::segformer_b0),
    light(
        "solo-light",
        WANG,
        TrunkKind::EfficientnetLite0,
        Light::Solo,
        &[96, 64],
    ),
];

/// The network called `name`.
///
/// # Errors
/// There is none; the message lists those there are.
pub fn by_name(name: &str) -> Result<&'static Architecture> {
    if let Some(found) = ARCHITECTURES
        .iter()
        .find(|architecture| architecture.name == name)
    {
        return Ok(found);
    }
    let names: Vec<&str> = ARCHITECTURES
        .iter()
        .map(|architecture| architecture.name)
        .collect();
    bail!(
        "there is no network called {name:?}, expected one of {}",
        names.join(", ")
    )
}

impl Architecture {
    /// Builds the network.
    #[must_use]
    pub fn graph(&self, classes: i64) -> Graph {
        self.divided(classes, 1)
    }

    /// Builds the network with channels divided by `divide` where it has a form of its own; one in a light form is small
    /// as it is.
    #[must_use]
    pub fn divided(&self, classes: i64, divide: i64) -> Graph {
        match self.form {
            Form::Paper(build) => build(classes, divide),
            Form::Light { .. } => self
                .sized(classes, &Sizes::default())
                .expect("a network's own sizes fit it"),
        }
    }

    /// Builds the network with other sizes.
    ///
    /// # Errors
    /// The network has no such size, or a size makes no sense; the message names the recipe's key.
    pub fn sized(&self, classes: i64, sizes: &Sizes) -> Result<Graph> {
        let name = self.name;
        let Form::Light { decoder, channels } = self.form else {
            for (key, is_set) in [
                ("trunk", sizes.trunk.is_some() && sizes.trunk != self.trunk),
                ("pyramid", sizes.pyramid.is_some()),
                ("decoder", sizes.decoder.is_some()),
                ("rates", sizes.rates.is_some()),
            ] {
                ensure!(
                    !is_set,
                    "network.{key} can't be set for {name}, whose sizes are its paper's"
                );
            }
            return Ok(self.graph(classes));
        };
        let pyramid = sizes.pyramid.unwrap_or(DEEPLAB_PYRAMID);
        let channels = sizes.decoder.as_deref().unwrap_or(channels);
        ensure!(
            pyramid > 0 && channels.iter().all(|&count| count > 0),
            "network.pyramid is {pyramid} and network.decoder {channels:?}, expected 1 channel or more"
        );
        let has_pyramid = matches!(decoder, Light::DeepLabV3 | Light::PanopticDeepLab);
        if !has_pyramid {
            ensure!(
                sizes.pyramid.is_none() && sizes.rates.is_none(),
                "network.pyramid and network.rates are DeepLab's, {name} has none"
            );
        }
        let kind = sizes.trunk.or(self.trunk).expect("a light network has a trunk");
        let Some(trunk) = kind.features() else {
            bail!("network.trunk: {name} can't be put on {}", kind.name())
        };
        let three = || {
            <[i64; 3]>::try_from(channels).map_err(|_| {
                anyhow::anyhow!(
                    "network.decoder has {} steps, {name} has three: strides 8, 4, 2",
                    channels.len()
                )
            })
        };
        Ok(match decoder {
            Light::DeepLabV3 | Light::PanopticDeepLab => {
                let most = if decoder == Light::DeepLabV3 { 3 } else { 1 };
                ensure!(
                    (1..=most).contains(&channels.len()),
                    "network.decoder has {} steps, expected 1 to {most}: strides 8, 4, 2",
                    channels.len()
                );
                let head = deeplabv3_light::Head {
                    pyramid,
                    decoder: channels.to_vec(),
                    rates: sizes.rates.clone().unwrap_or_else(|| DEEPLAB_RATES.to_vec()),
                    classes,
                };
                ensure!(
                    [0, 3].contains(&head.rates.len()) && head.rates.iter().all(|&rate| rate > 0),
                    "network.rates is {:?}, expected three of 1 or more, or none: []",
                    head.rates
                );
                if decoder == Light::DeepLabV3 {
                    deeplabv3_light::deeplabv3_light(trunk, &head)
                } else {
                    panoptic_deeplab_light::panoptic_deeplab_light(trunk, &head)
                }
            }
            Light::SegNet => {
                ensure!(
                    kind == TrunkKind::EfficientnetLite0,
                    "network.trunk is {}, {name} is made of efficientnet-lite0",
                    kind.name()
                );
                segnet_separable::segnet_separable(segnet_separable::Sizes {
                    channels: three()?,
                    classes,
                })
            }
            Light::Solo => {
                let decoder = <[i64; 2]>::try_from(channels).map_err(|_| {
                    anyhow::anyhow!(
                        "network.decoder has {} steps, {name} has two: strides 8, 4",
                        channels.len()
                    )
                })?;
                ensure!(
                    classes >= 2,
                    "network.classes is {classes}, {name} needs the background and one more"
                );
                solo_light::solo_light(trunk, decoder, classes)
            }
            Light::UNet => unet_light::unet_light(
                trunk,
                unet_light::Sizes {
                    channels: three()?,
                    classes,
                },
            ),
        })
    }

    /// Whether it tells objects apart.
    #[must_use]
    pub fn tells_objects(&self) -> bool {
        self.object_form().is_some()
    }

    /// How it tells objects apart, if it does.
    #[must_use]
    pub fn object_form(&self) -> Option<ObjectForm> {
        match self.form {
            Form::Light {
                decoder: Light::PanopticDeepLab,
                ..
            } => Some(ObjectForm::Centers),
            Form::Light {
                decoder: Light::Solo, ..
            } => Some(ObjectForm::Grids),
            _ => None,
        }
    }

    /// Mean and divisor of the input, on 0..255 RGB; those of ImageNet where no trunk has its own.
    #[must_use]
    pub fn normalisation(&self) -> ([f32; 3], [f32; 3]) {
        self.trunk.unwrap_or(TrunkKind::Resnet18).normalisation()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_network_has_the_stride_it_states() {
        for architecture in &ARCHITECTURES {
            let graph = architecture.graph(7);
            let (height, width) = (2 * architecture.multiple, 3 * architecture.multiple);
            // A network of grids has no logits of classes: masks are made of its first output.
            let channels = match architecture.object_form() {
                Some(ObjectForm::Grids) => solo_light::FEATURES,
                _ => 7,
            };
            let expected = [
                channels,
                height / architecture.stride,
                width / architecture.stride,
            ];
            assert_eq!(
                graph.shapes(height, width)[graph.output],
                expected,
                "{}",
                architecture.name
            );
            assert!(std::ptr::eq(by_name(architecture.name).unwrap(), architecture));
        }
        let message = by_name("segnet-basics").err().unwrap().to_string();
        assert!(
            message.contains("segnet-basics") && message.contains("segnet-basic,"),
            "{message}"
        );
    }

    #[test]
    fn sizes_that_make_no_sense_are_refused_by_key() {
        let refused = |name: &str, sizes: Sizes| {
            let result = by_name(name).unwrap().sized(3, &sizes);
            result.err().unwrap().to_string()
        };
        let decoder = |channels: &[i64]| Sizes {
            decoder: Some(channels.to_vec()),
            ..Sizes::default()
        };
        assert!(refused("unet", decoder(&[1, 2, 3])).contains("network.decoder"));
        assert!(refused("unet-light", decoder(&[16])).contains("network.decoder has 1 steps"));
        assert!(refused("deeplabv3-light", decoder(&[8, 8, 8, 8])).contains("network.decoder has 4"));
        assert!(refused("solo-light", decoder(&[16])).contains("network.decoder has 1 steps"));
        assert!(refused("deeplabv3-light", decoder(&[0])).contains("network.decoder [0]"));
        let pyramid = Sizes {
            pyramid: Some(8),
            ..Sizes::default()
        };
        assert!(refused("unet-light", pyramid).contains("network.pyramid"));
        let trunk = Sizes {
            trunk: Some(TrunkKind::Vgg16),
            ..Sizes::default()
        };
        assert!(refused("unet-light", trunk.clone()).contains("network.trunk"));
        assert!(refused("pspnet", trunk).contains("network.trunk"));
    }

    #[test]
    fn trunk_names_are_those_of_recipes() {
        for kind in [
            TrunkKind::EfficientnetLite0,
            TrunkKind::MobilenetV2,
            TrunkKind::MobilenetV2Half,
            TrunkKind::MobilenetV2Deeplab,
            TrunkKind::MobilenetV2DeeplabHalf,
            TrunkKind::MobilenetEdgetpu,
            TrunkKind::Vgg16,
            TrunkKind::Vgg16Bn,
            TrunkKind::Resnet18,
        ] {
            #[derive(Deserialize)]
            struct Table {
                trunk: TrunkKind,
            }
            let table: Table = toml::from_str(&format!("trunk = {:?}", kind.name())).unwrap();
            assert_eq!(table.trunk, kind);
        }
    }
}
