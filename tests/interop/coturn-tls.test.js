import { coturn } from './coturn.js';

coturn('tls');
