// Reads a /metrics page (OpenMetrics text).

/** @param {string} url @returns {Promise<Metrics>} */
export async function metrics(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url} answered ${response.status}`);
  return new Metrics(await response.text());
}

export class Metrics {
  /** @type {{ name: string, labels: Record<string, string>, value: number }[]} */
  samples = [];

  /** @param {string} text */
  constructor(text) {
    for (const line of text.split('\n')) {
      const match = /^([A-Za-z_:][\w:]*)(?:\{(.*)\})? (\S+)/.exec(line);
      if (!match) continue;
      const labels = Object.fromEntries([...(match[2] ?? '').matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map(([, name, value]) => [name, value]));
      this.samples.push({ name: match[1], labels, value: Number(match[3]) });
    }
  }

  /**
   * The sum of all samples of `name` that carry these labels. A name that is not there at all is an error, so that a renamed metric is noticed.
   * @param {string} name
   * @param {Record<string, string>} [labels]
   */
  sum(name, labels = {}) {
    const samples = this.samples.filter((sample) => sample.name === name);
    if (samples.length === 0) throw new Error(`no metric ${name}; there are: ${[...new Set(this.samples.map((sample) => sample.name))].join(' ')}`);
    return samples
      .filter((sample) => Object.entries(labels).every(([label, value]) => sample.labels[label] === value))
      .reduce((sum, sample) => sum + sample.value, 0);
  }
}
