#!/usr/bin/env python3
"""Runs segd import and segd image on what the usual exporters write, and prints what each backend did.

    python3 -m venv venv
    venv/bin/pip install torch torchvision transformers onnx onnxruntime onnxscript scipy ultralytics
    venv/bin/python scripts/exporters.py FOLDER SEGD [NAME...]

Networks are made in FOLDER with random weights: what is tried is the graph, and not what it finds. Ultralytics' program runs
by itself, as `yolo`; nothing of it is used here otherwise. ORT_DYLIB_PATH names ONNX Runtime's library.
"""
import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import torch
from PIL import Image

SIDE = 256


def export(path, model, example, names, outputs, opset=17):
    model.eval()
    with torch.no_grad():
        torch.onnx.export(model, example, path, input_names=names, output_names=outputs, opset_version=opset, dynamo=False)


class Named(torch.nn.Module):
    """A network of transformers with its outputs as a tuple."""

    def __init__(self, model, outputs):
        super().__init__()
        self.model, self.outputs = model, outputs

    def forward(self, pixel_values):
        found = self.model(pixel_values=pixel_values)
        return tuple(getattr(found, name) for name in self.outputs)


def hugging_face(path, model, outputs, processor):
    model.config.save_pretrained(path.parent)
    (path.parent / "preprocessor_config.json").write_text(json.dumps(processor))
    export(path, Named(model, outputs), torch.rand(1, 3, SIDE, SIDE), ["pixel_values"], outputs)


PROCESSOR = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "do_rescale": True,
             "rescale_factor": 1 / 255, "do_normalize": True}
LABELS = {"id2label": {n: f"kind {n}" for n in range(4)}, "label2id": {f"kind {n}": n for n in range(4)}}


def mask_rcnn(path):
    from torchvision.models.detection import maskrcnn_resnet50_fpn
    model = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=5, min_size=SIDE, max_size=SIDE)
    export(path, model, ([torch.rand(3, SIDE, SIDE)],), ["image"], ["boxes", "labels", "scores", "masks"])


def deeplab(path):
    from torchvision.models.segmentation import deeplabv3_mobilenet_v3_large

    class Out(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, image):
            return self.model(image)["out"]

    model = Out(deeplabv3_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=21))
    export(path, model, torch.rand(1, 3, SIDE, SIDE), ["input"], ["out"])


def segformer(path):
    from transformers import SegformerConfig, SegformerForSemanticSegmentation
    config = SegformerConfig(hidden_sizes=[16, 32, 40, 64], depths=[1, 1, 1, 1], decoder_hidden_size=64, **LABELS)
    hugging_face(path, SegformerForSemanticSegmentation(config), ["logits"], PROCESSOR)


def swin():
    from transformers import SwinConfig
    return SwinConfig(image_size=SIDE, embed_dim=24, depths=[1, 1, 1, 1], num_heads=[1, 2, 4, 8], window_size=8,
                      out_features=["stage1", "stage2", "stage3", "stage4"])


def maskformer(path):
    from transformers import DetrConfig, MaskFormerConfig, MaskFormerForInstanceSegmentation
    decoder = DetrConfig(d_model=64, decoder_layers=2, decoder_attention_heads=4, decoder_ffn_dim=128, num_queries=20)
    config = MaskFormerConfig(backbone_config=swin(), decoder_config=decoder, fpn_feature_size=64, mask_feature_size=64, **LABELS)
    hugging_face(path, MaskFormerForInstanceSegmentation(config), ["class_queries_logits", "masks_queries_logits"], PROCESSOR)


def mask2former(path):
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation
    config = Mask2FormerConfig(backbone_config=swin(), feature_size=64, mask_feature_size=64, hidden_dim=64, encoder_layers=2,
                               decoder_layers=3, num_attention_heads=4, dim_feedforward=128, encoder_feedforward_dim=128,
                               num_queries=20, **LABELS)
    hugging_face(path, Mask2FormerForUniversalSegmentation(config), ["class_queries_logits", "masks_queries_logits"], PROCESSOR)


def detr(path):
    from transformers import DetrConfig, DetrForSegmentation, ResNetConfig
    backbone = ResNetConfig(embedding_size=16, hidden_sizes=[16, 32, 64, 128], depths=[1, 1, 1, 1], layer_type="basic",
                            out_features=["stage1", "stage2", "stage3", "stage4"])
    config = DetrConfig(backbone_config=backbone, backbone=None, use_timm_backbone=False, use_pretrained_backbone=False, d_model=64,
                        encoder_layers=1, decoder_layers=2, encoder_attention_heads=8, decoder_attention_heads=8,
                        encoder_ffn_dim=64, decoder_ffn_dim=64, num_queries=20, **LABELS)
    hugging_face(path, DetrForSegmentation(config), ["logits", "pred_boxes", "pred_masks"], PROCESSOR)


def yolo(name):
    def make(path):
        program = pathlib.Path(sys.executable).with_name("yolo")
        run = [program, "export", f"model={name}.yaml", "format=onnx", f"imgsz={SIDE}", "opset=17", "simplify=False"]
        environment = os.environ | {"YOLO_AUTOINSTALL": "false", "YOLO_OFFLINE": "true"}
        subprocess.run(run, cwd=path.parent, env=environment, check=True, capture_output=True, text=True)
        made = next(p for p in path.parent.glob("*.onnx"))
        made.rename(path)
    return make


NETWORKS = {
    "maskrcnn_resnet50_fpn": mask_rcnn, "deeplabv3_mobilenet_v3": deeplab, "segformer": segformer, "maskformer": maskformer,
    "mask2former": mask2former, "detr": detr, "yolo11n-seg": yolo("yolo11n-seg"), "yolov8n-seg": yolo("yolov8n-seg"),
    "yolov9c-seg": yolo("yolov9c-seg"),
}


def picture(path):
    """Bright shapes on a gradient."""
    x, y = np.meshgrid(np.arange(320), np.arange(240))
    rgb = np.stack([x * 255 // 320, y * 255 // 240, (x + y) % 256], 2).astype(np.uint8)
    rgb[(x - 90) ** 2 + (y - 110) ** 2 < 3000] = [250, 220, 40]
    rgb[60:190, 200:280] = [30, 60, 240]
    Image.fromarray(rgb).save(path)


def segd(folder, program, *arguments):
    run = subprocess.run([program, *arguments], cwd=folder, capture_output=True, text=True)
    return run.returncode, run.stdout, run.stderr


def looser(contract):
    """Random weights are sure of nothing: lower limits leave objects to compare."""
    text = contract.read_text()
    # A fresh YOLO expects an object in one of 100,000 places.
    least = 1e-6 if 'kind = "prototypes"' in text else 0.02
    text = re.sub(r"(?m)^score = .*$", f"score = {least:.7f}", text)
    contract.write_text(re.sub(r"(?m)^doubt = .*$", f"doubt = {least / 2:.7f}", text))


def main():
    folder, program, only = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2]).resolve(), sys.argv[3:]
    torch.manual_seed(1)
    for name, make in NETWORKS.items():
        if only and name not in only:
            continue
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        file = place / f"{name}.onnx"
        print(f"== {name}")
        if not file.exists():
            try:
                make(file)
            except Exception as error:
                text = getattr(error, "stderr", None) or str(error)
                print(f"   not exported: {type(error).__name__}: {text.strip().splitlines()[-1] if text.strip() else ''}")
                continue
        picture(place / "picture.png")
        labels = place / "labels.txt"
        arguments = []
        if name.startswith("maskrcnn"):
            labels.write_text("background\none\ntwo\nthree\nfour\n")
            arguments = ["--labels", "labels.txt"]
        subprocess.run(["rm", "-rf", "model"], cwd=place, check=True)
        code, out, error = segd(place, program, "import", file.name, "--image", "picture.png", "--out", "model", *arguments)
        print("   " + (out + error).strip().replace("\n", "\n   "))
        if code:
            continue
        looser(place / "model/contract.toml")
        maps, results = {}, {}
        for backend in ["tract", "ort"]:
            found = segd(place, program, "image", "picture.png", "--model", "./model", "--backend", backend, "--no-selftest",
                         "--panoptic", f"{backend}.png", "--json")
            if found[0]:
                print(f"   {backend}: {found[2].strip().splitlines()[-1]}")
                continue
            maps[backend] = np.array(Image.open(place / f"{backend}.png"))
            results[backend] = json.loads(found[1])
            scores = [one["score"] for one in results[backend]]
            print(f"   {backend}: {len(scores)} segments, scores {min(scores, default=0):.4f} to {max(scores, default=0):.4f}")
        if len(maps) == 2:
            differ = (maps["tract"] != maps["ort"]).any(2).mean()
            pairs = zip(*(sorted(one["score"] for one in found) for found in results.values()))
            apart = max((abs(a - b) for a, b in pairs), default=0)
            print(f"   both: {differ:.6%} of the pixels differ, scores by at most {apart:.2e}")


main()
