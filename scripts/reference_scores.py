#!/usr/bin/env python3
"""Makes crates/vision/src/score/reference.json: made objects, and what the usual programs score them.

    python3 -m venv venv
    venv/bin/pip install numpy scipy pillow pycocotools==2.0.11 trackeval==1.3.0
    PYTHONPATH=PANOPTICAPI venv/bin/python scripts/reference_scores.py crates/vision/src/score/reference.json

PANOPTICAPI is a checkout of cocodataset/panopticapi, which is not on PyPI. The test of the same name in
crates/vision/src/score/ holds segd's scores to these.
"""
import contextlib
import io
import json
import os
import sys
import tempfile

import numpy as np
from panopticapi.evaluation import pq_compute_single_core, PQStat
from panopticapi.utils import id2rgb
from PIL import Image
from pycocotools import mask as masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from trackeval.metrics import CLEAR, HOTA, Identity

rng = np.random.default_rng(20)


def rle(pixels):
    return masks.encode(np.asfortranarray(pixels.astype(np.uint8)))


def text(pixels):
    return rle(pixels)["counts"].decode()


def blob(width, height, x, y, across, down, is_round):
    """An ellipse or a rectangle about (x, y)."""
    columns, rows = np.meshgrid(np.arange(width), np.arange(height))
    u, v = (columns - x) / max(across / 2, 0.5), (rows - y) / max(down / 2, 0.5)
    return u * u + v * v <= 1 if is_round else (abs(u) <= 1) & (abs(v) <= 1)


def average_precision():
    width, height, classes = 200, 160, 3
    pictures, truth, found = [], [], []
    for picture in range(10):
        own_truth, own_found = [], []
        for _ in range(6):
            side = rng.choice([20, 60, 125])
            across, down = side * rng.uniform(0.7, 1.3, 2)
            x, y = rng.uniform(10, width - 10), rng.uniform(10, height - 10)
            kind, is_round = int(rng.integers(classes)), bool(rng.integers(2))
            pixels = blob(width, height, x, y, across, down, is_round)
            left, top, w, h = masks.toBbox(rle(pixels))
            own_truth.append({
                "class": kind, "mask": text(pixels), "crowd": bool(rng.integers(9) == 0),
                # As polygons have them: not quite those of the mask.
                "area": round(float(pixels.sum() * rng.uniform(0.97, 1.03)), 3),
                "bbox": [round(float(n), 2) for n in (left + rng.uniform(-.4, .4), top, w + rng.uniform(-.4, .4), h)],
            })
            for _ in range(int(rng.integers(3))):
                off = rng.normal(0, 0.06 * side, 2)
                grown = rng.uniform(0.85, 1.15, 2)
                pixels = blob(width, height, x + off[0], y + off[1], across * grown[0], down * grown[1], is_round)
                if pixels.any():
                    kind_found = kind if rng.integers(8) else int(rng.integers(classes))
                    own_found.append({"class": kind_found, "score": int(rng.integers(1, 100)) / 100, "mask": text(pixels)})
        pictures.append({"truth": own_truth, "found": own_found})
    coco = {"images": [], "annotations": [], "categories": [{"id": n + 1, "name": str(n)} for n in range(classes)]}
    size = [height, width]
    for number, picture in enumerate(pictures):
        coco["images"].append({"id": number + 1, "width": width, "height": height})
        for one in picture["truth"]:
            coco["annotations"].append({
                "id": len(coco["annotations"]) + 1, "image_id": number + 1, "category_id": one["class"] + 1,
                "iscrowd": int(one["crowd"]), "area": one["area"], "bbox": one["bbox"],
                "segmentation": {"size": size, "counts": one["mask"]},
            })
        for one in picture["found"]:
            found.append({
                "image_id": number + 1, "category_id": one["class"] + 1, "score": one["score"],
                "segmentation": {"size": size, "counts": one["mask"]},
            })
    scores = {}
    with contextlib.redirect_stdout(io.StringIO()):
        api = COCO()
        api.dataset = coco
        api.createIndex()
        for shape in ["segm", "bbox"]:
            if shape == "bbox":
                results = [{k: v for k, v in one.items() if k != "segmentation"} | {
                    "bbox": [float(n) for n in masks.toBbox(one["segmentation"])]} for one in found]
            else:
                results = found
            run = COCOeval(api, api.loadRes(results), shape)
            run.evaluate()
            run.accumulate()
            run.summarize()
            precision = run.eval["precision"][:, :, :, :, 2]
            each = [[float(precision[:, :, c, a][precision[:, :, c, a] > -1].mean()) for a in range(4)] for c in range(classes)]
            scores[shape] = {"means": [float(n) for n in run.stats[:6]], "classes": each}
    return {"size": [width, height], "classes": classes, "pictures": pictures, "scores": scores}


def polygons():
    list_ = []
    for _ in range(14):
        width, height = int(rng.integers(5, 50)), int(rng.integers(5, 50))
        parts = []
        for _ in range(int(rng.integers(1, 4))):
            corners = rng.uniform(-2, 1.05 * max(width, height), 2 * int(rng.integers(3, 9)))
            digits = int(rng.integers(3))
            parts.append([round(float(n), digits) for n in corners])
        merged = masks.merge(masks.frPyObjects(parts, height, width))
        list_.append({"size": [width, height], "polygons": parts, "mask": merged["counts"].decode()})
    return list_


def panoptic():
    width, height, classes = 70, 50, 3
    pictures, pairs = [], []
    folder = tempfile.mkdtemp()
    for picture in range(6):
        true, predicted = np.zeros((height, width), int), np.zeros((height, width), int)
        true_segments, predicted_segments = {}, {}
        for number in range(1, 8):
            x, y, across, down = rng.uniform(0, width), rng.uniform(0, height), *rng.uniform(8, 30, 2)
            kind, is_round = int(rng.integers(classes)), bool(rng.integers(2))
            # A class has one crowd at most.
            crowds = [c for c, crowd in true_segments.values() if crowd]
            crowd = kind not in crowds and rng.integers(5) == 0
            true[blob(width, height, x, y, across, down, is_round)] = number
            true_segments[number] = (kind, bool(crowd))
            if rng.integers(6):
                off = rng.normal(0, 1.2, 2)
                predicted[blob(width, height, x + off[0], y + off[1], across, down, is_round)] = number
                predicted_segments[number] = kind if rng.integers(7) else int(rng.integers(classes))
        # What nobody labelled; the ground between objects is a segment of no class that is scored.
        void = blob(width, height, rng.uniform(0, width), rng.uniform(0, height), 24, 24, True)
        true[void] = 0
        ground = 99
        true[(true == 0) & ~void] = ground
        entry = {"file_name": f"{picture}.png", "image_id": picture}
        names = []
        for kind, image in [("true", true), ("found", predicted)]:
            name = os.path.join(folder, kind)
            os.makedirs(name, exist_ok=True)
            Image.fromarray(id2rgb(image)).save(os.path.join(name, entry["file_name"]))
            names.append(name)
        there = [n for n in true_segments if (true == n).any()]
        found_there = [n for n in predicted_segments if (predicted == n).any()]
        pairs.append((
            entry | {"segments_info": [
                {"id": n, "category_id": true_segments[n][0], "iscrowd": int(true_segments[n][1]), "area": int((true == n).sum())}
                for n in there] + [{"id": ground, "category_id": classes, "iscrowd": 0, "area": int((true == ground).sum())}]},
            entry | {"segments_info": [{"id": n, "category_id": predicted_segments[n]} for n in found_there]},
        ))
        pictures.append({
            "truth": [{"class": true_segments[n][0], "crowd": true_segments[n][1], "mask": text(true == n)} for n in there],
            "found": [{"class": predicted_segments[n], "mask": text(predicted == n)} for n in found_there],
            "void": text(void),
        })
    with contextlib.redirect_stdout(io.StringIO()):
        categories = {n: {"id": n, "isthing": 1} for n in range(classes + 1)}
        stat = pq_compute_single_core(0, pairs, *names, categories)
        mean, each = stat.pq_average({n: categories[n] for n in range(classes)}, isthing=None)
    return {
        "size": [width, height], "classes": classes, "pictures": pictures,
        "scores": [mean["pq"], mean["sq"], mean["rq"]],
        "each": [[each[n][k] for k in ("pq", "sq", "rq")] for n in range(classes)],
    }


def video(pictures, objects, miss, switch, extra, trembles):
    width, height = 64, 48
    places = rng.uniform([5, 5], [width - 5, height - 5], (objects, 2))
    steps = rng.normal(0, 1.5, (objects, 2))
    sizes = rng.uniform(6, 14, objects)
    numbers = {n: n + 1 for n in range(objects)}
    fresh = objects + 1
    list_ = []
    for picture in range(pictures):
        truth, found = [], []
        for n in range(objects):
            x, y = places[n] + picture * steps[n]
            pixels = blob(width, height, x, y, sizes[n], sizes[n], n % 2 == 0)
            if not pixels.any():
                continue
            truth.append((n, pixels))
            if rng.uniform() < switch:
                other = int(rng.integers(objects))
                if rng.uniform() < 0.5:
                    numbers[n], numbers[other] = numbers[other], numbers[n]
                else:
                    numbers[n], fresh = fresh, fresh + 1
            if rng.uniform() < miss:
                continue
            off = rng.normal(0, trembles, 2)
            pixels = blob(width, height, x + off[0], y + off[1], sizes[n], sizes[n], n % 2 == 0)
            if pixels.any():
                found.append([n, pixels])
        found = [(numbers[n], pixels) for n, pixels in found]
        if rng.uniform() < extra:
            found.append((1000 + int(rng.integers(3)), blob(width, height, *rng.uniform(5, 40, 2), 9, 9, True)))
        if picture in (5, 6):
            found = []
        list_.append((truth, found))
    return (width, height), list_


def tracks():
    out = []
    for arguments in [(16, 5, 0.1, 0.06, 0.3, 0.8), (14, 7, 0.25, 0.15, 0.5, 1.6), (10, 3, 0.0, 0.0, 0.0, 0.3)]:
        size, pictures = video(*arguments)
        places = [{}, {}]
        data = {"num_timesteps": len(pictures), "gt_ids": [], "tracker_ids": [], "similarity_scores": []}
        for truth, found in pictures:
            for key, one, known in [("gt_ids", truth, places[0]), ("tracker_ids", found, places[1])]:
                data[key].append(np.array([known.setdefault(n, len(known)) for n, _ in one], int))
            if truth and found:
                alike = masks.iou([rle(p) for _, p in truth], [rle(p) for _, p in found], [False] * len(found))
            else:
                alike = np.zeros((len(truth), len(found)))
            data["similarity_scores"].append(alike)
        data |= {
            "num_gt_ids": len(places[0]), "num_tracker_ids": len(places[1]),
            "num_gt_dets": sum(map(len, data["gt_ids"])), "num_tracker_dets": sum(map(len, data["tracker_ids"])),
        }
        with contextlib.redirect_stdout(io.StringIO()):
            hota, identity, clear = (m.eval_sequence(data) for m in (HOTA(), Identity(), CLEAR()))
        out.append({
            "size": list(size),
            "pictures": [{
                "truth": [[int(n), text(p)] for n, p in truth], "found": [[int(n), text(p)] for n, p in found],
            } for truth, found in pictures],
            "scores": {
                "hota": float(np.mean(hota["HOTA"])), "detection": float(np.mean(hota["DetA"])),
                "association": float(np.mean(hota["AssA"])), "localization": float(np.mean(hota["LocA"])),
                "idf1": float(identity["IDF1"]), "mota": float(clear["MOTA"]), "switches": int(clear["IDSW"]),
            },
        })
    return out


with open(sys.argv[1], "w", encoding="ascii") as file:
    everything = {"precision": average_precision(), "polygons": polygons(), "panoptic": panoptic(), "tracks": tracks()}
    json.dump(everything, file, separators=(",", ":"))
    file.write("\n")
