import { coturn } from './coturn.js';

coturn('udp');
