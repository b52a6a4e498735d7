// nginx and HAProxy in front of a server, as they come from Debian and with their default buffering.

const UPGRADE = 'proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade;';

/** @typedef {(stage: import('../harness/scenario.js').Stage, port: number, target: number) => Promise<{ command: string, args: string[] }>} Proxy */

/** The upgrade has to be asked for in nginx; everything else is its default. @param {{ websockets?: boolean }} [options] @returns {Proxy} */
export const nginx = ({ websockets = true } = {}) => async (stage, port, target) => {
  const folder = await stage.folder();
  const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map((name) => `${name}_temp_path ${folder}/${name};`).join(' ');
  const configuration = await stage.file('nginx.conf', `
    ${process.getuid?.() === 0 ? 'user root;' : ''}
    daemon off; master_process off; pid ${folder}/pid; error_log stderr;
    events {}
    http {
      access_log off; ${temporary}
      server {
        listen 127.0.0.1:${port};
        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        location / { proxy_pass http://127.0.0.1:${target}; }
        location ~ ^/v1/rooms/[^/]+/ws$ { proxy_pass http://127.0.0.1:${target}; ${websockets ? UPGRADE : ''} proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; }
      }
    }`);
  return { command: 'nginx', args: ['-p', folder, '-e', 'stderr', '-c', configuration] };
};

/** @param {string} mode how it passes on @param {string} server what it does towards the server @returns {Proxy} */
const haproxyIn = (mode, server) => async (stage, port, target) => {
  const configuration = await stage.file('haproxy.cfg', `
defaults
  ${mode}
  timeout connect 5s
  timeout client 30s
  timeout server 30s
frontend front
  bind 127.0.0.1:${port}
  default_backend back
backend back
  server signaling 127.0.0.1:${target} ${server}
`);
  return { command: 'haproxy', args: ['-db', '-f', configuration] };
};

export const haproxy = haproxyIn('mode http\n  option forwardfor', '');

/** Passes on what comes, as it comes, and says before it whose it is. */
export const passingHaproxy = haproxyIn('mode tcp', 'send-proxy-v2 source 127.0.0.9');

/**
 * A running proxy that can be ended and started again.
 * @param {import('./scenario.js').Stage} stage @param {Proxy} proxy @param {number} port where it listens @param {number} target what is behind it
 */
export async function startProxy(stage, proxy, port, target) {
  const { command, args } = await proxy(stage, port, target);
  const run = async () => {
    const program = stage.program(command, args);
    await program.answers(`http://127.0.0.1:${port}/`);
    return program;
  };
  let program = await run();
  return { kill: () => program.kill(), start: async () => { program = await run(); } };
}
