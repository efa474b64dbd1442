// A line chart, with the same numbers in a table for those who do not see it.

import { html, useEffect, useRef } from "../lib/html.js";

let loading;

/** Load uPlot, a classic script, once it is needed. */
function load() {
  loading ??= new Promise((resolve, reject) => {
    const sheet = document.createElement("link");
    Object.assign(sheet, { rel: "stylesheet", href: "page/vendor/uPlot.min.css" });
    const script = document.createElement("script");
    Object.assign(script, { src: "page/vendor/uPlot.iife.min.js", onload: resolve, onerror: reject });
    document.head.append(sheet, script);
  });
  return loading;
}

export function Chart({ x, y, xLabel, yLabel }) {
  const place = useRef();
  useEffect(() => {
    let plot;
    let isGone = false;
    const draw = () => {
      if (isGone || !window.uPlot || !place.current.clientWidth) return;
      plot?.destroy();
      const { color } = getComputedStyle(place.current);
      const axis = { stroke: color, grid: { stroke: "#8884" }, ticks: { stroke: "#8884" } };
      const options = {
        width: place.current.clientWidth,
        height: 220,
        legend: { show: false },
        scales: { x: { time: false } },
        axes: [{ ...axis, label: xLabel }, { ...axis, label: yLabel, size: 60 }],
        series: [{}, { stroke: color, width: 2, points: { show: true, size: 7 } }],
      };
      plot = new window.uPlot(options, [x, y], place.current);
    };
    load().then(draw, () => {}); // The table has the same numbers.
    const scheme = matchMedia("(prefers-color-scheme: dark)");
    scheme.addEventListener("change", draw);
    addEventListener("resize", draw);
    return () => {
      isGone = true;
      scheme.removeEventListener("change", draw);
      removeEventListener("resize", draw);
      plot?.destroy();
    };
  }, [x.join(), y.join()]);
  return html`
    <figure class="chart">
      <div ref=${place} aria-hidden="true"></div>
      <details><summary>As a table</summary>
        <table><caption>${yLabel}</caption>
          <thead><tr><th scope="col">${xLabel}</th><th scope="col">${yLabel}</th></tr></thead>
          <tbody>${x.map((value, index) => html`<tr><th scope="row">${value}</th><td>${y[index].toFixed(4)}</td></tr>`)}</tbody>
        </table></details>
    </figure>`;
}
