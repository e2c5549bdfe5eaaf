/** Signs, drawn: fonts have them in one place and not in another. */

const SVG = "http://www.w3.org/2000/svg";

/** Strokes on a field of 24 by 24. */
const SHAPES = {
  plus: "M12 5v14M5 12h14",
  close: "M6 6l12 12M18 6L6 18",
  back: "M15 5l-7 7 7 7",
  down: "M12 5v14M6 13l6 6 6-6",
  send: "M4 12l16-8-5 16-3-7-8-1z",
  info: "M12 21a9 9 0 1 0 0-18 9 9 0 0 0 0 18zM12 11v6M12 7.500v.1",
  power: "M12 3v8M6.800 6.800a7.500 7.500 0 1 0 10.400 0",
  bell: "M6 16V11a6 6 0 0 1 12 0v5l1.500 2h-15zM10 21h4",
  silent: "M6 16V11a6 6 0 0 1 9.500-4.900M18 11v5l1.500 2h-15L6 16M10 21h4M4 4l16 16",
  check: "M5 13l4.500 4.500L19 7",
  wait: "M12 21a9 9 0 1 0 0-18 9 9 0 0 0 0 18zM12 7v5l3 2",
  alert: "M12 21a9 9 0 1 0 0-18 9 9 0 0 0 0 18zM12 7v6M12 16.500v.1",
};

/**
 * A sign. What it means is said elsewhere: by the label of its button, or in words beside it.
 *
 * @param {keyof typeof SHAPES} name
 */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  const path = document.createElementNS(SVG, "path");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("class", "sign");
  svg.setAttribute("aria-hidden", "true");
  path.setAttribute("d", SHAPES[name]);
  svg.append(path);
  return svg;
}
